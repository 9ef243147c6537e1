-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- The demo's first rows: the same ones every time, and only into an empty
-- database. The login is admin@example.com with the password firedrill-demo.

SET search_path = public;

DO $$
DECLARE
  -- A fixed salt, so that the rows are the same on every machine.
  hash text := crypt('firedrill-demo', '$2a$06$firedrilldemofiredrilu');
  epoch timestamptz := '2026-01-05 08:00:00+00';
  names text[] := ARRAY['Åsa Öberg', 'José Muñoz', 'Łukasz Żółć', 'Zoë O''Brien', '田中 花子', 'Иван Петров', 'Ελένη', 'نور'];
  streets text[] := ARRAY['Königstraße', 'Rue de l''Évêché', 'ul. Łąkowa', 'Main St.', '銀座'];
BEGIN
  IF EXISTS (SELECT FROM users) THEN
    RETURN;
  END IF;

  INSERT INTO users (account_id, email, full_name, role, password_hash, avatar, settings, created_at)
  SELECT 1 + (i - 1) % 3,
         CASE WHEN i = 1 THEN 'admin@example.com' ELSE format('user%s@example.com', i) END,
         names[1 + i % 8],
         CASE WHEN i <= 3 THEN 'owner' WHEN i <= 9 THEN 'dispatcher' ELSE 'technician' END,
         hash,
         decode(md5(i::text) || '00ff', 'hex'),
         jsonb_build_object('lang', (ARRAY['de', 'fr', 'pl', 'en', 'ja'])[1 + i % 5], 'dark', i % 2 = 0),
         epoch + i * interval '1 hour'
    FROM generate_series(1, 42) AS i;

  INSERT INTO jobs (account_id, customer, title, status, assigned_to, tags, details, created_at, updated_at)
  SELECT 1 + (i - 1) % 3,
         names[1 + i % 8] || ' ' || i,
         format('Repair no. %s: %s', i, (ARRAY['boiler', 'Dachrinne', 'ampoule', 'エアコン'])[1 + i % 4]),
         (enum_range(NULL::job_status))[1 + i % 5],
         10 + (i - 1) % 33,
         ARRAY['t' || i % 7, CASE WHEN i % 3 = 0 THEN 'urgent' ELSE 'normal' END],
         jsonb_build_object('street', streets[1 + i % 5], 'no', i % 120, 'floor', NULL, 'area_m2', i % 90 + 0.5),
         epoch + i * interval '20 minutes',
         epoch + i * interval '25 minutes'
    FROM generate_series(1, 1200) AS i;

  INSERT INTO visits (account_id, job_id, technician_id, started_at, minutes, notes, signature)
  SELECT j.account_id, j.id, j.assigned_to, j.created_at + n * interval '1 day', 15 + (j.id * n % 200)::integer,
         format('visit %s ✓ %s', n, j.customer),
         CASE WHEN n = 1 THEN decode(repeat(md5(j.id::text), 4), 'hex') END
    FROM jobs j CROSS JOIN generate_series(1, 3) AS n
   ORDER BY j.id, n;

  INSERT INTO estimates (account_id, job_id, amount, lines, valid_until)
  SELECT j.account_id, j.id, 40 + j.id % 900 + 0.25,
         jsonb_build_array(jsonb_build_object('text', 'Arbeitszeit', 'eur', 40),
                           jsonb_build_object('text', 'pièces', 'eur', j.id % 900 + 0.25)),
         (j.created_at + interval '60 days')::date
    FROM jobs j
   WHERE j.id % 4 <> 0
   ORDER BY j.id;

  INSERT INTO invoices (account_id, job_id, estimate_id, total, issued_on, due_on)
  SELECT e.account_id, e.job_id, e.id, e.amount, e.valid_until - 30, e.valid_until
    FROM estimates e
   WHERE e.id % 9 <> 0
   ORDER BY e.id;

  UPDATE invoices
     SET document = lo_from_bytea((900000 + id)::oid,
                                  convert_to(repeat(format(E'Rechnung %s – Grüße aus Köln €\n', number), 400), 'UTF8'))
   WHERE id <= 5;

  INSERT INTO payments (account_id, invoice_id, amount, method, reference, paid_at)
  SELECT i.account_id, i.id, round(i.total / 2, 2), (ARRAY['card', 'cash', 'bank'])[1 + n],
         md5(format('%s/%s', i.id, n))::uuid, i.issued_on + n * interval '1 day'
    FROM invoices i CROSS JOIN generate_series(0, 1) AS n
   WHERE i.id % 5 <> 0 OR n = 0
   ORDER BY i.id, n;

  GRANT SELECT ON LARGE OBJECT 900001, 900002, 900003, 900004, 900005 TO fsm_app;
END
$$;

ANALYZE;

-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- The runbook's row counts; a table that is gone shows as such, not as an error.
SELECT max(rows) FILTER (WHERE name = 'users') AS users,
       max(rows) FILTER (WHERE name = 'jobs') AS jobs,
       max(rows) FILTER (WHERE name = 'visits') AS visits,
       max(rows) FILTER (WHERE name = 'estimates') AS estimates,
       max(rows) FILTER (WHERE name = 'invoices') AS invoices,
       max(rows) FILTER (WHERE name = 'payments') AS payments,
       max(rows) FILTER (WHERE name = 'audit_log') AS audit_log
  FROM unnest(ARRAY['users', 'jobs', 'visits', 'estimates', 'invoices', 'payments', 'audit_log']) AS name,
       LATERAL (SELECT CASE WHEN to_regclass('public.' || name) IS NULL THEN 'gone'
                            ELSE (xpath('//rows/text()',
                                        query_to_xml(format('SELECT count(*) AS rows FROM public.%I', name),
                                                     false, true, '')))[1]::text
                       END AS rows) AS counted;

-- A small firm's database, `scale` times: customers with text, orders with jsonb, a log of events; with the
-- indexes that such an application has. Scale 100 is about 1.1 GB.
SELECT setseed(0.42);
CREATE TABLE customers (
    id bigint PRIMARY KEY, name text NOT NULL, email text UNIQUE NOT NULL, address text, notes text,
    created_at timestamptz NOT NULL);
INSERT INTO customers
SELECT g, 'Customer ' || g || ' ' || (ARRAY['Müller', 'Nguyen', 'García', 'Smith', 'Okafor'])[1 + g % 5],
       'c' || g || '@' || (ARRAY['example.com', 'example.org', 'mail.example'])[1 + g % 3],
       (g::bigint * 7919 % 9999) || ' ' || (ARRAY['Main', 'Oak', 'Station', 'Church'])[1 + g % 4] || ' Street',
       repeat((ARRAY['prefers mornings; ', 'gate code on file; ', 'pays late; '])[1 + g % 3], 1 + g % 6),
       '2024-01-01'::timestamptz + g * interval '7 minutes'
  FROM generate_series(1, :scale * 1500) g;
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, placed_at timestamptz NOT NULL,
    total numeric(12,2) NOT NULL, body jsonb NOT NULL);
INSERT INTO orders
SELECT g, 1 + (random() * (:scale * 1500 - 1))::bigint, '2024-01-01'::timestamptz + g * interval '90 seconds',
       (random() * 1000)::numeric(12,2),
       jsonb_build_object('status', (ARRAY['open', 'paid', 'void'])[1 + g % 3], 'ref', md5(g::text),
           'lines', jsonb_build_array(
               jsonb_build_object('sku', 'A' || g % 977, 'qty', 1 + g % 9, 'price', (random() * 90)::numeric(8,2)),
               jsonb_build_object('sku', 'B' || g % 577, 'qty', 1 + g % 5, 'note', repeat('as agreed ', (g % 5)::int))))
  FROM generate_series(1, :scale * 8000) g;
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders (placed_at);
CREATE INDEX ON orders USING gin (body jsonb_path_ops);
CREATE TABLE events (
    id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL, who text NOT NULL, detail text);
INSERT INTO events
SELECT g, '2024-01-01'::timestamptz + g * interval '20 seconds',
       (ARRAY['login', 'view', 'update', 'export', 'logout'])[1 + g % 5], 'user-' || (random() * 500)::int,
       'session ' || md5((g / 20)::text) || ' from 10.' || g % 200 || '.' || g % 250 || '.7 ' || md5(g::text)
  FROM generate_series(1, :scale * 30000) g;
CREATE INDEX ON events (at);
CREATE INDEX ON events (who, kind);
ANALYZE;

\set id :base + :client_id
BEGIN;
WITH up AS (UPDATE ledger SET n = n + 1 WHERE id = :id RETURNING id, n) INSERT INTO entries SELECT id, n, inet_server_port(), 'pgbench' FROM up;
SELECT n FROM ledger WHERE id = :id;
COMMIT;

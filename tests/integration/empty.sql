-- Makes a schema of objects.sql and types.sql what a migration with --schema none
-- expects: all definitions, no rows, sequences at their start, matviews as they were.
DO $$
DECLARE r record;
BEGIN
	EXECUTE (SELECT 'TRUNCATE ' || string_agg(c.oid::regclass::text, ', ') || ' RESTART IDENTITY'
	         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema');
	FOR r IN SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relkind = 'S' LOOP
		EXECUTE 'ALTER SEQUENCE ' || r.name || ' RESTART';
	END LOOP;
	REFRESH MATERIALIZED VIEW shop.z_base;
	REFRESH MATERIALIZED VIEW shop.a_top;
END $$;

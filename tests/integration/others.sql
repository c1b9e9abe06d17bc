-- One at least of each kind of thing that lives in a database and that pg_dump knows, beside
-- those of objects.sql. The role mover_reader is on both servers.

-- Extensions, one in a schema of its own, types and operator classes of which are used.
CREATE SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE EXTENSION pg_trgm SCHEMA ext;
CREATE EXTENSION citext;
COMMENT ON EXTENSION hstore IS 'ours';
CREATE SCHEMA misc;
CREATE TABLE misc.bag (id int PRIMARY KEY, h ext.hstore, name citext UNIQUE);
CREATE INDEX bag_trgm ON misc.bag USING gin ((h::text) ext.gin_trgm_ops);

-- Types.
CREATE TYPE misc.mood AS ENUM ('sad', 'it''s fine', 'glad');
CREATE TYPE misc.pair AS (a int, "b c" text COLLATE "C");
CREATE DOMAIN misc.positive AS numeric(10, 2) DEFAULT 1 NOT NULL CONSTRAINT above CHECK (VALUE > 0);
CREATE COLLATION misc.posix (provider = libc, locale = 'C');
CREATE TYPE misc.span AS RANGE (subtype = text, collation = "C");
COMMENT ON TYPE misc.mood IS 'how';
COMMENT ON DOMAIN misc.positive IS 'not less';
CREATE TABLE misc.typed (m misc.mood, p misc.pair, d misc.positive, t text COLLATE misc.posix, s misc.span,
	arr misc.mood[] DEFAULT '{sad}', CONSTRAINT "a check" CHECK (d < 100) NO INHERIT);
CREATE TABLE misc.of_type OF misc.pair (a WITH OPTIONS PRIMARY KEY);

-- Functions and what is made of them.
CREATE FUNCTION misc.add(a misc.mood, b misc.mood) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 3
	AS $$ SELECT 1; -- "; $x$
$$;
CREATE PROCEDURE misc.nothing(INOUT a int) LANGUAGE plpgsql AS 'BEGIN a := 1; END';
CREATE FUNCTION misc.state(s int, v int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT coalesce(s, 0) + coalesce(v, 0)';
CREATE AGGREGATE misc.total(int) (SFUNC = misc.state, STYPE = int, INITCOND = '0');
CREATE OPERATOR misc.+ (LEFTARG = misc.mood, RIGHTARG = misc.mood, FUNCTION = misc.add);
CREATE FUNCTION misc.to_int(misc.mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 7';
CREATE CAST (misc.mood AS int) WITH FUNCTION misc.to_int(misc.mood) AS ASSIGNMENT;
CREATE OPERATOR FAMILY misc.family USING btree;
CREATE OPERATOR CLASS misc.class FOR TYPE int USING btree FAMILY misc.family AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int, int);
CREATE CONVERSION misc.conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE FUNCTION misc.handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE LANGUAGE plours HANDLER misc.handler;

-- Text search.
CREATE TEXT SEARCH DICTIONARY misc.dict (TEMPLATE = pg_catalog.simple, STOPWORDS = 'english');
CREATE TEXT SEARCH CONFIGURATION misc.cfg (COPY = pg_catalog.simple);
ALTER TEXT SEARCH CONFIGURATION misc.cfg ALTER MAPPING FOR asciiword WITH misc.dict;
CREATE TEXT SEARCH PARSER misc.parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
CREATE TEXT SEARCH TEMPLATE misc.template (INIT = dsimple_init, LEXIZE = dsimple_lexize);

-- Foreign data; the table's rows stay where they are.
CREATE EXTENSION file_fdw;
CREATE FOREIGN DATA WRAPPER dummy OPTIONS (debug 'true');
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE USER MAPPING FOR mover_reader SERVER files;
CREATE FOREIGN TABLE misc.afar (line text) SERVER files OPTIONS (filename '/dev/null');

-- Views, rules, policies, triggers, statistics.
CREATE VIEW misc.secure WITH (security_barrier, check_option = local) AS SELECT id, name FROM misc.bag WHERE id > 0;
CREATE VIEW misc.grouped AS SELECT id, count(*) FROM misc.bag GROUP BY id;
CREATE MATERIALIZED VIEW misc.stored AS SELECT id FROM misc.bag;
CREATE UNIQUE INDEX stored_id ON misc.stored (id);
CREATE RULE keep AS ON DELETE TO misc.typed DO INSTEAD NOTHING;
COMMENT ON RULE keep ON misc.typed IS 'stays';
CREATE FUNCTION misc.trig() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER "a trigger" AFTER INSERT ON misc.bag REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION misc.trig();
CREATE CONSTRAINT TRIGGER later AFTER UPDATE OF name ON misc.bag DEFERRABLE FOR EACH ROW WHEN (OLD.name <> NEW.name) EXECUTE FUNCTION misc.trig();
CREATE FUNCTION misc.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION misc.on_ddl();
ALTER EVENT TRIGGER watch DISABLE;
ALTER TABLE misc.bag ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON misc.bag FOR SELECT TO mover_reader USING (id > 3);
COMMENT ON POLICY readers ON misc.bag IS 'some';
CREATE STATISTICS misc.many (dependencies, mcv) ON id, name FROM misc.bag;
ALTER STATISTICS misc.many SET STATISTICS 77;
ALTER TABLE misc.bag ALTER id SET STATISTICS 55, ALTER name SET (n_distinct = -0.5);
ALTER TABLE misc.bag SET (autovacuum_enabled = false, fillfactor = 70);
ALTER TABLE misc.bag CLUSTER ON bag_pkey;

-- Owners, privileges, default privileges, comments.
ALTER TABLE misc.typed OWNER TO mover_reader;
CREATE SCHEMA owned AUTHORIZATION mover_reader;
ALTER FUNCTION misc.to_int(misc.mood) OWNER TO mover_reader;
GRANT SELECT (id), UPDATE (name) ON misc.bag TO mover_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA misc TO PUBLIC;
GRANT USAGE ON SCHEMA misc TO mover_reader WITH GRANT OPTION;
GRANT USAGE ON TYPE misc.mood TO mover_reader;
GRANT USAGE ON FOREIGN SERVER files TO mover_reader;
REVOKE EXECUTE ON FUNCTION misc.state(int, int) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA misc GRANT INSERT ON TABLES TO mover_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE mover_reader REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
COMMENT ON SCHEMA misc IS E'one\n-- two; ''three''';
COMMENT ON COLUMN misc.bag.h IS 'a column';
COMMENT ON CONSTRAINT "a check" ON misc.typed IS 'a constraint';
COMMENT ON INDEX misc.bag_trgm IS 'an index';
COMMENT ON AGGREGATE misc.total(int) IS 'an aggregate';
COMMENT ON EVENT TRIGGER watch IS 'an event trigger';

-- Not moved, but named.
CREATE PUBLICATION theirs FOR TABLE misc.bag;
CREATE SUBSCRIPTION ours CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false);

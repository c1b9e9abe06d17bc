-- The demo's small schema: types, keys and names that migrations stumble over.
CREATE SCHEMA odd;
SET search_path = odd;
SET client_min_messages = warning;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);

CREATE TABLE "Every type" (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	n numeric, f double precision, b bytea, t text, j json, jb jsonb, x xml,
	ts timestamptz, d date, i interval, u uuid, net inet, mac macaddr8, bits bit varying(70),
	r int4range, mr nummultirange, p point, tv tsvector, m mood, c pair, arr int[], marr text[][],
	pos positive, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO "Every type"
	(n, f, b, t, j, jb, x, ts, d, i, u, net, mac, bits, r, mr, p, tv, m, c, arr, marr, pos)
SELECT CASE g % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE g / 7.0 END,
	g / 3.0::float8, decode(md5(g::text), 'hex'), CASE WHEN g % 5 = 0 THEN '' ELSE repeat('ü', g % 50) END,
	json_build_object('k', g), jsonb_build_object('k', array[g]), xmlelement(name e, g),
	CASE WHEN g % 10 = 0 THEN 'infinity' ELSE now() - g * interval '1 hour' END,
	CASE WHEN g % 10 = 1 THEN '-infinity' ELSE date '0044-03-15 BC' + g END, g * interval '1 day 1 second',
	md5(g::text)::uuid, '10.0.0.0'::inet + g, '08:00:2b:01:02:03:04:05', g::bit(70),
	int4range(g, g + 10), nummultirange(numrange(g, g + 1), numrange(g + 5, NULL)), point(g, -g),
	to_tsvector('simple', 'word ' || g), (ARRAY['sad', 'ok', 'happy'])[1 + g % 3]::mood, ROW(g, 'x"y')::pair,
	ARRAY[g, NULL, -g], ARRAY[['a', 'b"'], ['c,', '{d}']], g
FROM generate_series(1, 2000) g;

CREATE TABLE no_key (a int, b text, c json);
INSERT INTO no_key SELECT g % 10, NULLIF('v' || g % 4, 'v0'), '{"a": 1}' FROM generate_series(1, 200) g;

CREATE TABLE parent (id int PRIMARY KEY, best_child int);
CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE CASCADE, big text);
ALTER TABLE parent ADD FOREIGN KEY (best_child) REFERENCES child DEFERRABLE INITIALLY DEFERRED;
INSERT INTO parent SELECT g FROM generate_series(1, 50) g;
INSERT INTO child SELECT g, 1 + g % 50, repeat(md5(g::text), 400) FROM generate_series(1, 200) g;

CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
INSERT INTO part SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, 'v' FROM generate_series(1, 500) g;

CREATE TABLE audit (id bigserial PRIMARY KEY, what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = odd AS
	$$BEGIN INSERT INTO audit (what) VALUES (TG_OP || ' ' || NEW.id); RETURN NEW; END$$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE child ENABLE ALWAYS TRIGGER audit;
CREATE MATERIALIZED VIEW per_mood AS SELECT m, count(*) FROM "Every type" GROUP BY m;

-- What the application does here in each of its transactions.
CREATE FUNCTION churn(roll int) RETURNS void LANGUAGE plpgsql SET search_path = odd AS $$
BEGIN
	CASE abs(roll) % 8
	WHEN 0 THEN UPDATE child SET big = repeat(md5(roll::text), 400) WHERE id = 1 + abs(roll) % 200;
	WHEN 1 THEN UPDATE child SET parent = 1 + abs(roll) % 50 WHERE id = 1 + abs(roll) % 200;
	WHEN 2 THEN INSERT INTO "Every type" (n, t, m, arr, c) VALUES (roll, 'new', 'ok', ARRAY[roll], ROW(roll, NULL)::pair);
	WHEN 3 THEN DELETE FROM "Every type" WHERE id = (SELECT min(id) FROM "Every type");
	WHEN 4 THEN UPDATE no_key SET b = 'u' || roll % 7 WHERE ctid = (SELECT ctid FROM no_key LIMIT 1 FOR UPDATE SKIP LOCKED);
	WHEN 5 THEN UPDATE part SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE id = 1 + abs(roll) % 500;
	WHEN 6 THEN
		BEGIN
			UPDATE parent SET best_child = 1 + abs(roll) % 200 WHERE id = 1 + abs(roll) % 50;
			IF roll % 3 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	ELSE UPDATE "Every type" SET jb = jsonb_build_object('k', roll), mr = '{[1,2)}' WHERE id % 500 = abs(roll) % 500;
	END CASE;
END $$;

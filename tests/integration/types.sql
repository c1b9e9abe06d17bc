-- Every built-in type that a table column can have, and what users make of them.
--
-- Read by workload.c: a line "--14: text" becomes "text" on a server of major 14 or
-- newer, so psql sees the oldest one's form. types.sample has a few values of each
-- type; from it tables types.t1, t2, ... are made (some types each, with an array of
-- each), and types.full1, full2, ... with the same columns, no key and duplicates.
--
-- XML: PostgreSQL leaves a declaration of version 1.0 out of what it sends (so does
-- pg_dump lose it); the declaration here is one that it prints.

CREATE SCHEMA types;

CREATE TABLE types.sample (type text PRIMARY KEY, value text[] NOT NULL);
INSERT INTO types.sample VALUES
 ('boolean', '{t,f}'),
 ('smallint', '{0,-32768,32767}'),
 ('integer', '{0,-2147483648,2147483647}'),
 ('bigint', '{0,-9223372036854775808,9223372036854775807}'),
 ('numeric', ARRAY['NaN','0','-0.000','1.0','1.00','-12345678901234567890.123456789',
                   repeat('9', 400) || '.' || repeat('1', 300), '1e-200']
--14: || ARRAY['Infinity','-Infinity']
 ),
 ('real', '{NaN,Infinity,-Infinity,-0,0.1,1e-37,3.4028235e38}'),
 ('double precision', '{NaN,Infinity,-Infinity,-0,0,0.1,5e-324,1.7976931348623157e308}'),
 ('money', '{0,-92233720368547758.08,92233720368547758.07,12.34}'),
 ('"char"', ARRAY['a', '', '~']),
 ('name', ARRAY['', 'Name with "quotes"', repeat('n', 63)]),
 ('text', ARRAY['', ' ', 'NULL', E'tab\tnewline\nreturn\r', E'back\\slash and \\N and \\.', 'äöü 漢字 😀 ''''"', repeat('long ', 3000)]),
 ('character varying', ARRAY['', 'x ', '{}', '{"a,b"}']),
 ('character(3)', ARRAY['', 'a', 'é漢 ']),
 ('bytea', ARRAY['', '\x00', '\x00ff5c27', '\x' || repeat('0badc0de', 2000)]),
 ('bit(5)', '{00000,10101,11111}'),
 ('bit varying', ARRAY['', '1', repeat('10', 300)]),
 ('date', '{-infinity,infinity,"4713-01-01 BC","5874897-12-31",2000-02-29,"0001-12-31 BC"}'),
 ('time', '{00:00:00,24:00:00,23:59:59.999999}'),
 ('time with time zone', '{00:00:00+15:59,24:00:00-15:59:59,12:34:56.789+05:30}'),
 ('timestamp', '{-infinity,infinity,"4713-01-01 00:00:00 BC","294276-12-31 23:59:59.999999","0044-03-15 12:00:00 BC"}'),
 ('timestamp with time zone', '{-infinity,infinity,"4713-01-02 00:00:00+00 BC","294276-12-31 23:59:59.999999+00","2026-03-29 02:30:00+01"}'),
 ('interval', ARRAY['0', '1 mon', '30 days', '720:00:00', '-178000000 years', '1 year -2 days 03:04:05.678901']
--17: || ARRAY['infinity','-infinity']
 ),
 ('uuid', '{00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'),
 ('json', ARRAY['null', '{"b": 1, "a": {"x": [1, 2.50, "\u00e4"]}, "b": 2}', ' [ ] ', '"text"']),
 ('jsonb', ARRAY['null', '{"b": 1, "a": {"x": [1, 2.50, "ä"]}}', '[]', '1.0', '1.00', '"text"']),
 ('jsonpath', ARRAY['$', 'strict $."a b"[*] ? (@.x > 1.5)', '$.a.b.type()']),
 ('xml', ARRAY['<a/>', '<?xml version="1.1" standalone="yes"?><b c="d">ä &amp; &lt;</b>', 'text <only/>', '']),
 ('tsvector', ARRAY['', '''a'':1A,2B ''b c'':16383', 'plain words']),
 ('tsquery', ARRAY['', '''fat'' & ( ''rat'' | !''cat'':AB )', '''a'' <-> ''b'' <3> ''c'':*']),
 ('point', '{"(0,0)","(-1.5,2e100)","(NaN,Infinity)"}'),
 ('line', '{"{1,2,3}","{0,-1,0.5}"}'),
 ('lseg', '{"[(0,0),(1,1)]","[(-1e-10,2),(3,4)]"}'),
 ('box', '{"(1,1),(0,0)","(3,4),(-1,-2)"}'),
 ('path', '{"((0,0),(1,1),(2,0))","[(0,0),(1,1)]"}'),
 ('polygon', '{"((0,0),(1,1),(2,0))","((0,0))"}'),
 ('circle', '{"<(0,0),1>","<(-1.5,2),0>"}'),
 ('inet', '{0.0.0.0,192.168.1.1/24,::1,2001:db8::1/64,::ffff:1.2.3.4}'),
 ('cidr', '{0.0.0.0/0,10.0.0.0/8,::/0,2001:db8::/32}'),
 ('macaddr', '{00:00:00:00:00:00,08:00:2b:01:02:03}'),
 ('macaddr8', '{00:00:00:00:00:00:00:00,08:00:2b:ff:fe:01:02:03}'),
 ('int4range', ARRAY['empty', '(,)', '[1,5)', '(,7)', '[-2147483648,2147483647)']),
 ('int8range', ARRAY['empty', '(,)', '[1,5)', '[-9223372036854775808,)']),
 ('numrange', ARRAY['empty', '(,)', '[1.0,1.00]', '(-1e50,1e-50)']),
 ('daterange', ARRAY['empty', '(,)', '[2000-01-01,infinity]', '["0044-03-15 BC",)']),
 ('tsrange', ARRAY['empty', '(,)', '["2000-01-01 00:00:00",infinity)', '(-infinity,"0044-03-15 12:00:00 BC"]']),
 ('tstzrange', ARRAY['empty', '(,)', '["2000-01-01 00:00:00+02",infinity)']),
--14: ('int4multirange', ARRAY['{}', '{[1,2),[5,9)}', '{(,)}']),
--14: ('int8multirange', ARRAY['{}', '{[1,2),[5,9)}']),
--14: ('nummultirange', ARRAY['{}', '{[1.0,1.0],(2,3.50]}']),
--14: ('datemultirange', ARRAY['{}', '{[2000-01-01,2000-02-01),[2001-01-01,)}']),
--14: ('tsmultirange', ARRAY['{}', '{["2000-01-01 00:00:00",infinity)}']),
--14: ('tstzmultirange', ARRAY['{}', '{["2000-01-01 00:00:00+02",infinity)}']),
 ('oid', '{0,4294967295}'),
 ('xid', '{0,4294967295}'),
 ('cid', '{0,4294967295}'),
 ('tid', '{"(0,0)","(4294967295,65535)"}'),
--13: ('xid8', '{0,18446744073709551615}'),
 ('pg_lsn', '{0/0,FFFFFFFF/FFFFFFFF}'),
 ('txid_snapshot', ARRAY['1:1:', '10:20:10,14,15']),
--13: ('pg_snapshot', ARRAY['1:1:', '10:20:10,14,15']),
 ('int2vector', ARRAY['', '1 -2 32767']),
 ('oidvector', ARRAY['', '1 2 4294967295']),
 ('refcursor', ARRAY['', 'a cursor']),
 ('aclitem', ARRAY['postgres=r/postgres', '=r*w*/postgres']),
 ('regclass', ARRAY['pg_class', 'types.sample', '-']),
--13: ('regcollation', ARRAY['"C"', '-']),
 ('regconfig', ARRAY['english', 'simple']),
 ('regdictionary', ARRAY['simple', 'english_stem']),
 ('regnamespace', ARRAY['pg_catalog', 'types']),
 ('regoper', ARRAY['0', '||/']),
 ('regoperator', ARRAY['+(integer,integer)', '0']),
 ('regproc', ARRAY['pg_backend_pid', '-']),
 ('regprocedure', ARRAY['sum(integer)', '-']),
 ('regrole', ARRAY['postgres', '-']),
 ('regtype', ARRAY['integer', 'types.sample', '-', 'text[]']);

-- What users make.
CREATE TYPE types.colour AS ENUM ('red', 'Dark "Green"', 'über''blau', 'a,b{c}');
CREATE DOMAIN types.positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN types.small AS types.positive CHECK (VALUE < 1000);
CREATE DOMAIN types.tags AS text[] CHECK (array_length(VALUE, 1) IS DISTINCT FROM 99);
CREATE TYPE types.pair AS (a integer, "b c" text);
CREATE TYPE types.nested AS (p types.pair, list types.pair[], colour types.colour, n types.small, json json);
CREATE DOMAIN types.checked_pair AS types.pair CHECK ((VALUE).a IS DISTINCT FROM 13);
CREATE TYPE types.floatrange AS RANGE (subtype = double precision);
CREATE TYPE types.colourrange AS RANGE (subtype = types.colour);
INSERT INTO types.sample VALUES
 ('types.colour', ARRAY['red', 'Dark "Green"', 'über''blau', 'a,b{c}']),
 ('types.small', '{1,999}'),
 ('types.tags', ARRAY['{}', '{a,"b c",NULL}', '[5:6]={x,y}']),
 ('types.pair', ARRAY['(,)', '(1,"")', '(2,"a ""quoted"" (text), with\\slash")']),
 ('types.nested', ARRAY['(,,,,)', '("(1,x)","{""(2,y)"",NULL}",red,7,"{""k"": [1]}")']),
 ('types.checked_pair', ARRAY['(5,five)']),
 ('types.floatrange', ARRAY['empty', '[0.1,NaN)', '(-Infinity,)']),
--14: ('types.floatmultirange', ARRAY['{}', '{[0.1,0.2),[1,)}']),
 ('types.colourrange', ARRAY['empty', '[red,"über''blau")']);

-- Row r of a table has sample number r of each type; the last row is all NULL.
DO $$
DECLARE
	rows constant int := 10;
	per_table constant int := 9;
	t record;
	columns text;
	insert_values text;
	array_value text;
	s text[];
BEGIN
	FOR t IN SELECT g, array_agg(type ORDER BY type) AS type, array_agg(ordinal ORDER BY type) AS ordinal
	         FROM (SELECT type, ordinal, (ordinal - 1) / per_table + 1 AS g
	               FROM (SELECT type, row_number() OVER (ORDER BY md5(type)) AS ordinal FROM types.sample) o) o
	         GROUP BY g ORDER BY g
	LOOP
		SELECT string_agg(format('%I %s, %I %s[]', replace(n, 'types.', ''), n, replace(n, 'types.', '') || '[]', n), ', ')
		INTO columns FROM unnest(t.type) n;
		EXECUTE format('CREATE TABLE types.t%s (id bigint GENERATED BY DEFAULT AS IDENTITY (START 1000) PRIMARY KEY, %s)', t.g, columns);
		EXECUTE format('CREATE TABLE types.full%s (%s)', t.g, columns);
		EXECUTE format('ALTER TABLE types.full%s REPLICA IDENTITY FULL', t.g);
		FOR r IN 1..rows LOOP
			insert_values := '';
			FOR i IN 1..array_length(t.type, 1) LOOP
				SELECT array_agg(quote_literal(v)) INTO s FROM types.sample, unnest(value) v WHERE type = t.type[i];
				array_value := CASE (r + i) % 6
					WHEN 0 THEN '''{}'''
					WHEN 1 THEN format('ARRAY[%s]', array_to_string(s, ','))
					WHEN 2 THEN format('ARRAY[NULL, %s]', s[1])
					WHEN 3 THEN format('ARRAY[[%1$s, %2$s], [NULL, %1$s]]', s[1], s[array_length(s, 1)])
					WHEN 4 THEN format('array_fill(%s::%s, ARRAY[2, 1, 2], ARRAY[-3, 0, 7])', s[array_length(s, 1)], t.type[i])
					ELSE 'NULL' END;
				IF r = rows THEN
					insert_values := insert_values || ', NULL, NULL';
				ELSE
					insert_values := insert_values || format(', %s::%s, %s::%s[]',
						s[(r - 1) % array_length(s, 1) + 1], t.type[i], array_value, t.type[i]);
				END IF;
			END LOOP;
			EXECUTE format('INSERT INTO types.t%s VALUES (%s%s)', t.g, r, insert_values);
			EXECUTE format('INSERT INTO types.full%s VALUES (%s)', t.g, substr(insert_values, 3));
			IF r % 3 = 0 THEN -- duplicates
				EXECUTE format('INSERT INTO types.full%s VALUES (%s)', t.g, substr(insert_values, 3));
			END IF;
		END LOOP;
	END LOOP;
END $$;

-- Lengths and precisions.
CREATE TABLE types.modified (
	id integer PRIMARY KEY,
	n numeric(10,2), nn numeric(10,2)[], v varchar(5), vv varchar(5)[], c char(10), cc char(10)[],
	b bit(3), bb varbit(7), t time(0), tz timetz(1), ts timestamp(3), tstz timestamptz(2)[],
	i interval(2), dts interval day to second(1), ym interval year to month
--15: , hundreds numeric(3,-2)
);
INSERT INTO types.modified VALUES
 (1, 12345.675, '{1.005,NULL}', 'abc', '{"a b",""}', 'pad', '{x,"  y"}', '101', '1', '12:34:56.7', '12:34:56.78+02',
  '2000-01-01 00:00:00.1234', '{"2000-01-01 00:00:00.1234+00"}', '1 day 00:00:01.239', '3 days 01:02:03.45', '2 years 3 mons'),
 (2, 'NaN', '{}', '', '{}', '', '{}', '000', '', NULL, NULL, 'infinity', '{-infinity}', NULL, NULL, NULL);
--15: UPDATE types.modified SET hundreds = 12345;

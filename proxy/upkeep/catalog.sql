-- What a database is made of: (parent, object, part, what it is). `parent` is set for the parts of a
-- partition that holds a range, and names its table; the default partition is a table like any other.
-- Looked at is everything but the system's schemas and what extensions brought.

WITH ours AS (
    SELECT oid, nspname, nspacl, nspowner, CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END AS dot
    FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), owner AS (
    SELECT coalesce((SELECT relowner FROM pg_class WHERE oid = to_regclass('schema_migrations')),
                    (SELECT oid FROM pg_roles WHERE rolname = current_user)) AS oid
), brought AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relation AS (
    SELECT c.*, o.dot || c.relname AS name,
           CASE c.relkind WHEN 'r' THEN 'table ' WHEN 'p' THEN 'table ' WHEN 'v' THEN 'view '
                          WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence '
                          WHEN 'f' THEN 'foreign table ' END || o.dot || c.relname AS object,
           CASE WHEN c.relispartition AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
                THEN (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid)
           END AS month
    FROM pg_class c JOIN ours o ON o.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_class'::regclass AND b.objid = c.oid)
), routine AS (
    SELECT p.*, 'function ' || o.dot || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS object
    FROM pg_proc p JOIN ours o ON o.oid = p.pronamespace
    WHERE NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_proc'::regclass AND b.objid = p.oid)
),
-- Who else may do what. MAINTAIN is new in 17, and nothing that we give.
granted AS (
    SELECT class, oid, col,
           coalesce(nullif(g.grantee, 0)::regrole::text, 'PUBLIC') AS grantee,
           string_agg(g.privilege_type || CASE WHEN g.is_grantable THEN '*' ELSE '' END, ', '
                      ORDER BY g.privilege_type) AS privileges
    FROM (
        SELECT 'relation' AS class, r.oid, 0 AS col, relowner AS owner,
               coalesce(relacl, acldefault('r', relowner)) AS acl
        FROM relation r WHERE relkind <> 'S'
        UNION ALL
        SELECT 'relation', r.oid, attnum, relowner, attacl
        FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid
        WHERE attacl IS NOT NULL AND NOT attisdropped
        UNION ALL
        SELECT 'routine', p.oid, 0, proowner, coalesce(proacl, acldefault('f', proowner)) FROM routine p
        UNION ALL
        SELECT 'schema', oid, 0, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM ours
        UNION ALL
        SELECT 'default', oid, 0, defaclrole, defaclacl FROM pg_default_acl
        WHERE defaclrole = (SELECT oid FROM owner)
    ) AS given CROSS JOIN LATERAL aclexplode(acl) AS g
    WHERE g.grantee <> given.owner AND g.privilege_type <> 'MAINTAIN'
    GROUP BY class, oid, col, g.grantee
)
SELECT month, object, '', concat_ws(', ',
    CASE relkind WHEN 'p' THEN 'partitioned by ' || pg_get_partkeydef(r.oid) END,
    CASE WHEN relispartition THEN 'partition of ' || (
        SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = r.oid) END,
    CASE relpersistence WHEN 'u' THEN 'unlogged' END,
    CASE WHEN relrowsecurity THEN 'row level security' END,
    CASE WHEN relforcerowsecurity THEN 'forced on its owner' END,
    'with ' || array_to_string(reloptions, ' '),
    CASE WHEN relowner <> (SELECT oid FROM owner) THEN 'owned by ' || relowner::regrole END)
FROM relation r
UNION ALL
SELECT month, object, 'column ' || attname, concat_ws(' ', format_type(atttypid, atttypmod),
    CASE WHEN attcollation <> typcollation THEN 'COLLATE ' || attcollation::regcollation END,
    CASE WHEN attnotnull THEN 'NOT NULL' END,
    CASE attidentity WHEN 'a' THEN 'IDENTITY ALWAYS' WHEN 'd' THEN 'IDENTITY' END,
    CASE WHEN attgenerated = '' THEN 'DEFAULT ' ELSE 'GENERATED ' END || pg_get_expr(adbin, adrelid))
FROM relation r
JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
JOIN pg_type t ON t.oid = atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = attnum
WHERE relkind <> 'S'
UNION ALL
SELECT month, object,
       'constraint ' || CASE WHEN relispartition THEN pg_get_constraintdef(c.oid) ELSE conname END,
       pg_get_constraintdef(c.oid) || CASE WHEN convalidated THEN '' ELSE ' (not validated)' END
FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid
WHERE contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT month, object,
       'index ' || CASE WHEN relispartition THEN made ELSE indexrelid::regclass::text END,
       made || CASE WHEN indisvalid THEN '' ELSE ' (invalid)' END
FROM relation r JOIN pg_index i ON i.indrelid = r.oid
CROSS JOIN LATERAL (
    SELECT CASE WHEN indisunique THEN 'UNIQUE ' ELSE '' END
           || substring(pg_get_indexdef(indexrelid) FROM ' (USING .*)$') AS made) AS definition
UNION ALL
SELECT month, object, 'trigger ' || tgname,
       regexp_replace(substring(pg_get_triggerdef(t.oid) FROM 'TRIGGER \S+ (.*)$'),
                      ' ON \S+ ', ' ')
       || CASE tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' (disabled)' ELSE ' (fires ' || tgenabled::text || ')' END
FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT tgisinternal
UNION ALL
SELECT month, object, 'policy ' || polname, concat_ws(' ',
    CASE WHEN polpermissive THEN 'permissive' ELSE 'restrictive' END,
    CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
    'TO ' || (SELECT string_agg(coalesce(nullif(role, 0)::regrole::text, 'PUBLIC'), ', '
                                ORDER BY nullif(role, 0)::regrole::text)
              FROM unnest(polroles) AS role),
    'USING (' || pg_get_expr(polqual, polrelid) || ')',
    'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')
FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT month, object, 'rule ' || rulename, pg_get_ruledef(w.oid)
FROM relation r JOIN pg_rewrite w ON w.ev_class = r.oid AND rulename <> '_RETURN'
UNION ALL
SELECT month, object, 'definition', 'sha256 ' || encode(sha256(convert_to(pg_get_viewdef(r.oid), 'UTF8')), 'hex')
FROM relation r WHERE relkind IN ('v', 'm')
UNION ALL
SELECT NULL, object, '', concat_ws(', ', lanname,
    CASE prokind WHEN 'p' THEN 'procedure' ELSE 'returns ' || pg_get_function_result(r.oid) END,
    CASE provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
    CASE WHEN proisstrict THEN 'strict' END,
    CASE WHEN prosecdef THEN 'security definer' END,
    CASE WHEN proleakproof THEN 'leakproof' END,
    'arguments ' || nullif(pg_get_function_arguments(r.oid), ''),
    'set ' || array_to_string(proconfig, ' '),
    CASE WHEN proowner <> (SELECT oid FROM owner) THEN 'owned by ' || proowner::regrole END,
    'sha256 ' || encode(sha256(convert_to(
        CASE WHEN prosqlbody IS NULL THEN prosrc ELSE pg_get_functiondef(r.oid) END, 'UTF8')), 'hex'))
FROM routine r JOIN pg_language l ON l.oid = prolang
WHERE prokind <> 'a'
UNION ALL
SELECT NULL, CASE typtype WHEN 'e' THEN 'enum ' WHEN 'd' THEN 'domain ' ELSE 'type ' END || o.dot || typname, '',
    CASE typtype
        WHEN 'e' THEN (SELECT string_agg(enumlabel, ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid)
        WHEN 'd' THEN concat_ws(' ', format_type(typbasetype, typtypmod), CASE WHEN typnotnull THEN 'NOT NULL' END,
            (SELECT string_agg(pg_get_constraintdef(c.oid), ' ' ORDER BY conname) FROM pg_constraint c
             WHERE contypid = t.oid AND contype = 'c'))
        ELSE (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
              FROM pg_attribute WHERE attrelid = typrelid AND NOT attisdropped) END
FROM pg_type t JOIN ours o ON o.oid = typnamespace
WHERE (typtype IN ('e', 'd') OR typtype = 'c' AND (SELECT relkind FROM pg_class WHERE oid = typrelid) = 'c')
  AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_type'::regclass AND b.objid = t.oid)
UNION ALL
SELECT NULL, 'extension ' || extname, '', 'present'
FROM pg_extension WHERE extname <> 'plpgsql'
UNION ALL
SELECT NULL, 'role ' || rolname, '', concat_ws(', ',
    CASE WHEN rolcanlogin THEN 'may log in' ELSE 'no login' END,
    CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolbypassrls THEN 'sees past row level security' END,
    CASE WHEN rolcreaterole THEN 'makes roles' END, CASE WHEN rolcreatedb THEN 'makes databases' END,
    CASE WHEN rolreplication THEN 'replicates' END)
FROM pg_roles WHERE rolname ~ '^autopay_(writer|reader|auditor|admin)$'
UNION ALL
SELECT month, object, concat('grants to ' || grantee, ' on column ' || attname), privileges
FROM relation r JOIN granted g ON g.class = 'relation' AND g.oid = r.oid
LEFT JOIN pg_attribute a ON a.attrelid = r.oid AND attnum = col AND col > 0
UNION ALL
SELECT NULL, object, 'grants to ' || grantee, privileges
FROM routine r JOIN granted g ON g.class = 'routine' AND g.oid = r.oid
UNION ALL
SELECT NULL, 'schema ' || nspname, 'grants to ' || grantee, privileges
FROM ours o JOIN granted g ON g.class = 'schema' AND g.oid = o.oid
WHERE grantee = 'PUBLIC' OR grantee ~ '^autopay_'
UNION ALL
SELECT NULL, 'default privileges', concat_ws(' ', 'on ' || CASE defaclobjtype WHEN 'f' THEN 'functions' WHEN 'r' THEN 'tables'
           ELSE defaclobjtype::text END, 'in ' || nullif(defaclnamespace, 0)::regnamespace, 'for', coalesce(grantee, 'nobody')),
       coalesce(privileges, '')
FROM pg_default_acl d LEFT JOIN granted g ON g.class = 'default' AND g.oid = d.oid
WHERE defaclrole = (SELECT oid FROM owner)

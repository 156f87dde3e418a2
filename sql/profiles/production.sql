-- What the migrations make: nothing is open that was not opened to a role. Takes back
-- sql/profiles/development.sql, wherever that was run. May be run again.

DO $$
DECLARE
    v_table name;
BEGIN
    FOR v_table IN
        SELECT tablename FROM pg_policies WHERE schemaname = 'public' AND policyname = 'Allow all operations'
    LOOP
        EXECUTE format('DROP POLICY "Allow all operations" ON %I', v_table);
    END LOOP;
    -- The role is the whole server's, and another database may still use it.
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'autopay_developer') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM autopay_developer;
        REVOKE ALL ON SCHEMA public FROM autopay_developer;
    END IF;
END $$;

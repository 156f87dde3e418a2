-- A session may have a limit of its own, and a token may be bound to one session: what is done with
-- that token counts against it whatever its bearer says. So `autopay run --budget` holds.

ALTER TABLE agent_tokens
    ADD COLUMN session_id text CHECK (session_id <> '' AND length(session_id) <= 200);

ALTER TABLE budget_counters
    ADD COLUMN limit_micros bigint CHECK (limit_micros BETWEEN 0 AND 999999999999999999),
    ADD CHECK (kind = 'session' OR limit_micros IS NULL);
COMMENT ON COLUMN budget_counters.limit_micros IS
    'a limit of this session''s own, besides that of the policy: the lower of the two holds';

-- The functions that spend know it from here on. Only that one expression of theirs changes, so it
-- is changed in their text, and they stay as their own migrations tell them; `least` takes no
-- notice of a NULL.
DO $$
DECLARE
    v_function text;
    v_before   text;
    v_after    text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['reserve', 'guard_budget'] LOOP
        v_before := pg_get_functiondef(v_function::regproc);
        v_after := replace(v_before, 'budget_limit(v_counter.kind, v_policy)',
                           'least(budget_limit(v_counter.kind, v_policy), v_counter.limit_micros)');
        v_after := replace(v_after, 'budget_limit(NEW.kind, p)',
                           'least(budget_limit(NEW.kind, p), NEW.limit_micros)');
        IF v_after = v_before THEN
            RAISE EXCEPTION 'the limit of % was not found in its text', v_function;
        END IF;
        EXECUTE v_after;
    END LOOP;
END $$;

-- What the score of a provider, and of each of its endpoints, is made of. Counts and amounts that are
-- exact, and the same faded, as of `weighed_at`: every replica and every restart scores alike. And what
-- users think of what was bought: one thumb of each user for each receipt, and for each message of a chat.

CREATE TABLE IF NOT EXISTS provider_scores (
    provider             text NOT NULL CHECK (provider <> ''),
    endpoint             text NOT NULL DEFAULT '' CHECK (length(endpoint) <= 2100),
    successes            bigint NOT NULL DEFAULT 0,
    failures             bigint NOT NULL DEFAULT 0,
    paid_failures        bigint NOT NULL DEFAULT 0,
    schema_passes        bigint NOT NULL DEFAULT 0,
    quotes               bigint NOT NULL DEFAULT 0,
    delivered_micros     bigint NOT NULL DEFAULT 0,
    lost_micros          bigint NOT NULL DEFAULT 0,
    recent_successes     double precision NOT NULL DEFAULT 0,
    recent_failures      double precision NOT NULL DEFAULT 0,
    recent_paid_failures double precision NOT NULL DEFAULT 0,
    recent_schema_passes double precision NOT NULL DEFAULT 0,
    recent_latency       double precision NOT NULL DEFAULT 0,
    recent_quotes        double precision NOT NULL DEFAULT 0,
    recent_asked         double precision NOT NULL DEFAULT 0,
    recent_delivered     double precision NOT NULL DEFAULT 0,
    recent_lost          double precision NOT NULL DEFAULT 0,
    weighed_at           timestamptz NOT NULL DEFAULT now(),
    rated_at             timestamptz,
    last_status          integer,
    last_error           text CHECK (length(last_error) <= 500),
    last_seen_at         timestamptz,
    updated_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, endpoint)
) WITH (fillfactor = 70);
COMMENT ON COLUMN provider_scores.endpoint IS
    'method and URL without its query; empty: the provider as a whole';
COMMENT ON COLUMN provider_scores.recent_latency IS 'a sum in ms, over the recent successes';
COMMENT ON COLUMN provider_scores.recent_asked IS
    'a sum in micro-USD, over the recent quotes; a weight, like recent_delivered and recent_lost, and no money';
COMMENT ON COLUMN provider_scores.rated_at IS 'when somebody rated it, or took a rating back; NULL: never';
CREATE INDEX IF NOT EXISTS idx_provider_scores_updated ON provider_scores (updated_at);
-- What a start reads, and only as much of it as is kept in memory.
CREATE INDEX IF NOT EXISTS idx_provider_scores_seen ON provider_scores (last_seen_at DESC NULLS LAST);

CREATE TABLE IF NOT EXISTS receipt_ratings (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    receipt_id   uuid NOT NULL REFERENCES x402_payment_logs (id) ON DELETE RESTRICT,
    user_address text NOT NULL CHECK (user_address <> '' AND length(user_address) <= 128),
    is_positive  boolean NOT NULL,
    agent_id     uuid,
    provider     text,
    endpoint     text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (receipt_id, user_address)
);
COMMENT ON COLUMN receipt_ratings.provider IS 'with agent_id and endpoint: of the payment, whoever claims otherwise';
CREATE INDEX IF NOT EXISTS idx_receipt_ratings_provider ON receipt_ratings (provider, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_receipt_ratings_agent ON receipt_ratings (agent_id);

ALTER TABLE message_ratings ADD COLUMN IF NOT EXISTS receipt_id uuid;
ALTER TABLE message_ratings ADD COLUMN IF NOT EXISTS provider text;
ALTER TABLE message_ratings ADD COLUMN IF NOT EXISTS endpoint text;
COMMENT ON COLUMN message_ratings.receipt_id IS
    'what was paid for the message, where that is known: its provider and endpoint are rated by it too';
CREATE INDEX IF NOT EXISTS idx_message_ratings_provider ON message_ratings (provider, created_at DESC)
    WHERE provider IS NOT NULL;

-- Whose answer it is that is rated, taken from the books. A changed mind is as new as a first one.
CREATE OR REPLACE FUNCTION place_rating() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v payments;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.is_positive <> OLD.is_positive THEN
        NEW.created_at := now();
    END IF;
    IF TG_TABLE_NAME = 'receipt_ratings' THEN
        SELECT * INTO v FROM payments p WHERE p.id = NEW.receipt_id;
        NEW.agent_id := v.agent_id;
    ELSIF TG_OP = 'INSERT' OR NEW.message_id <> OLD.message_id OR OLD.receipt_id IS NULL THEN
        SELECT p.* INTO v FROM chat_messages m JOIN payments p ON p.id = m.payment_id
         WHERE m.message_id = NEW.message_id ORDER BY m.created_at, m.id LIMIT 1;
        NEW.receipt_id := v.id;
    ELSE  -- the message may be gone by now, what was paid for it is not
        SELECT * INTO v FROM payments p WHERE p.id = OLD.receipt_id;
        NEW.receipt_id := v.id;
    END IF;
    NEW.provider := v.provider;
    NEW.endpoint := v.method || ' ' || v.endpoint;
    RETURN NEW;
END $$;

-- The thumbs for a provider, or for one endpoint of it (''; all): each user's last word on each payment,
-- whether said of the receipt or of the message; faded. Sums only: who said what is private. Strict: of no
-- provider there is no row, and nothing is looked for.
CREATE OR REPLACE FUNCTION thumbs(p_provider text, p_endpoint text, p_half_life_seconds double precision)
RETURNS TABLE (up double precision, down double precision)
LANGUAGE sql STABLE STRICT ROWS 1 SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
    WITH words AS (
        SELECT r.receipt_id, r.user_address, r.is_positive, r.created_at FROM receipt_ratings r
         WHERE r.provider = p_provider AND p_endpoint IN ('', r.endpoint)
        UNION ALL
        SELECT m.receipt_id, m.user_address, m.is_positive, m.created_at FROM message_ratings m
         WHERE m.provider = p_provider AND p_endpoint IN ('', m.endpoint)
    ), last_words AS (
        SELECT DISTINCT ON (w.receipt_id, w.user_address) w.is_positive,
               power(2::double precision, -least(1000, greatest(0, extract(epoch FROM now() - w.created_at)
                                                                   / p_half_life_seconds))) AS weight
          FROM words w ORDER BY w.receipt_id, w.user_address, w.created_at DESC
    )
    SELECT coalesce(sum(l.weight) FILTER (WHERE l.is_positive), 0),
           coalesce(sum(l.weight) FILTER (WHERE NOT l.is_positive), 0) FROM last_words l
$$;

-- Tells the proxies, which look at what has changed, that there is something new to weigh.
CREATE OR REPLACE FUNCTION note_rating() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    r record := coalesce(NEW, OLD);
BEGIN
    IF r.provider IS NOT NULL THEN
        INSERT INTO provider_scores AS s (provider, rated_at) VALUES (r.provider, now())
        ON CONFLICT (provider, endpoint) DO UPDATE SET rated_at = now(), updated_at = now();
        UPDATE provider_scores s SET rated_at = now(), updated_at = now()
         WHERE s.provider = r.provider AND s.endpoint = r.endpoint;
        -- What the seed keeps of it: the rate as of this rating, beginning with two thumbs of each kind.
        UPDATE x402_procurement_provider_stats p SET quality = round(((t.up + 2) / (t.up + t.down + 4))::numeric, 6)
          FROM thumbs(r.provider, '', 604800) t WHERE p.id = r.provider;
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS receipt_ratings_place ON receipt_ratings;
CREATE TRIGGER receipt_ratings_place BEFORE INSERT OR UPDATE ON receipt_ratings
    FOR EACH ROW EXECUTE FUNCTION place_rating();
DROP TRIGGER IF EXISTS message_ratings_place ON message_ratings;
CREATE TRIGGER message_ratings_place BEFORE INSERT OR UPDATE ON message_ratings
    FOR EACH ROW EXECUTE FUNCTION place_rating();
-- Those that were there before.
UPDATE message_ratings SET is_positive = is_positive WHERE receipt_id IS NULL;
INSERT INTO provider_scores (provider, rated_at) SELECT DISTINCT m.provider, now() FROM message_ratings m
 WHERE m.provider IS NOT NULL ON CONFLICT (provider, endpoint) DO NOTHING;
DROP TRIGGER IF EXISTS receipt_ratings_note ON receipt_ratings;
CREATE TRIGGER receipt_ratings_note AFTER INSERT OR UPDATE OR DELETE ON receipt_ratings
    FOR EACH ROW EXECUTE FUNCTION note_rating();
DROP TRIGGER IF EXISTS message_ratings_note ON message_ratings;
CREATE TRIGGER message_ratings_note AFTER INSERT OR UPDATE OR DELETE ON message_ratings
    FOR EACH ROW EXECUTE FUNCTION note_rating();

-- What was seen of providers and endpoints more than `p_days` back, and not since; how many rows. Whoever
-- answers or fails once has left some. A breaker that is open, or was so within that time, stays.
CREATE OR REPLACE FUNCTION prune_providers(p_days integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_before timestamptz := now() - make_interval(days => p_days);
    v_scores bigint;
    v_stats bigint;
BEGIN
    -- As for the logs: whoever has taken over the proxy shall not wipe out what it did.
    IF p_days < 31 THEN
        RAISE EXCEPTION 'providers are kept for 31 days at least, not for %', p_days
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- What somebody else has locked is being written, so it is not old any more: nobody waits for it.
    DELETE FROM provider_scores s USING (
        SELECT o.provider, o.endpoint FROM provider_scores o
         WHERE coalesce(greatest(o.last_seen_at, o.rated_at), o.updated_at) < v_before
           FOR UPDATE SKIP LOCKED) gone
     WHERE s.provider = gone.provider AND s.endpoint = gone.endpoint;
    GET DIAGNOSTICS v_scores = ROW_COUNT;
    DELETE FROM x402_procurement_provider_stats s USING (
        SELECT o.id FROM x402_procurement_provider_stats o
         WHERE coalesce(o.last_seen_at, o.updated_at) < v_before
           AND coalesce(o.circuit_open_until, '-infinity') < v_before
           FOR UPDATE SKIP LOCKED) gone
     WHERE s.id = gone.id;
    GET DIAGNOSTICS v_stats = ROW_COUNT;
    RETURN v_scores + v_stats;
END $$;

-- What users thought of an erased agent's answers goes with what they were.
CREATE OR REPLACE FUNCTION erase_ratings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM receipt_ratings r WHERE r.agent_id = NEW.id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_ratings ON agents;
CREATE TRIGGER agents_ratings AFTER UPDATE ON agents
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION erase_ratings();

REVOKE ALL ON FUNCTION place_rating(), note_rating(), erase_ratings(), thumbs(text, text, double precision),
    prune_providers(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION prune_providers(integer) TO autopay_writer, autopay_admin;
GRANT EXECUTE ON FUNCTION thumbs(text, text, double precision)
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;

SELECT open_table('provider_scores', ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
SELECT open_table('receipt_ratings', ARRAY['autopay_admin']);
REVOKE ALL ON provider_scores, receipt_ratings FROM PUBLIC;
GRANT SELECT ON provider_scores TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT INSERT, UPDATE, DELETE ON provider_scores TO autopay_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON receipt_ratings TO autopay_admin;
-- The user of the results rates in his own name, what his own wallet paid or his own chat was given.
GRANT SELECT, INSERT, UPDATE, DELETE ON receipt_ratings TO autopay_reader;
DROP POLICY IF EXISTS own_rating ON receipt_ratings;
CREATE POLICY own_rating ON receipt_ratings TO autopay_reader
    USING (user_address = current_setting('autopay.wallet', true))
    WITH CHECK (user_address = current_setting('autopay.wallet', true)
                AND (EXISTS (SELECT 1 FROM payments p WHERE p.id = receipt_id
                                AND p.payer = current_setting('autopay.wallet', true))
                     OR EXISTS (SELECT 1 FROM chat_messages m WHERE m.payment_id = receipt_id)));

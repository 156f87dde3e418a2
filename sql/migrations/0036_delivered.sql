-- What came back for the money, told in full: what was expected of it, and what was wrong with it.
ALTER TABLE x402_procurement_receipts
    ADD COLUMN IF NOT EXISTS total_ms integer,
    ADD COLUMN IF NOT EXISTS size_bytes bigint,
    ADD COLUMN IF NOT EXISTS content_type text,
    ADD COLUMN IF NOT EXISTS whole boolean,
    ADD COLUMN IF NOT EXISTS expected boolean,
    ADD COLUMN IF NOT EXISTS unread text;
COMMENT ON COLUMN x402_procurement_receipts.latency_ms IS 'from the request to the answer''s first byte';
COMMENT ON COLUMN x402_procurement_receipts.total_ms IS 'from the request to the answer''s last byte';
COMMENT ON COLUMN x402_procurement_receipts.size_bytes IS 'of the body, as it came';
COMMENT ON COLUMN x402_procurement_receipts.whole IS 'the provider brought it to its end, whoever still listened';
COMMENT ON COLUMN x402_procurement_receipts.expected IS 'more was expected of it than to be whole, and no error';
COMMENT ON COLUMN x402_procurement_receipts.unread IS 'why its body was not held against what was expected';
COMMENT ON COLUMN x402_procurement_receipts.schema_ok IS 'it came whole and has the form that was expected; it may be late';

-- As in 0017, but that an answer which came whole and is not what was paid for is no broken one.
CREATE OR REPLACE FUNCTION access(d x402_procurement_receipts) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    UPDATE api_requests a
       SET status = CASE WHEN d.success THEN 'ACCESSED' ELSE 'FAILED' END::request_status,
           http_status = d.status,
           error_class = CASE WHEN d.success THEN NULL
                              WHEN d.status >= 400 OR d.whole THEN 'paid_failed' ELSE 'body_broken' END
      FROM payments x
     WHERE x.id = d.payment_id AND a.id = x.api_request_id AND a.status = 'PAID';
END $$;

-- A step of a trace whose payment brought nothing says so, for as long as that is so.
ALTER TABLE x402_trace_steps DROP CONSTRAINT IF EXISTS x402_trace_steps_outcome_check;
ALTER TABLE x402_trace_steps ADD CONSTRAINT x402_trace_steps_outcome_check
    CHECK (outcome IN ('denied', 'reserved', 'paid', 'paid_failed', 'in_doubt', 'failed'));

-- As in 0015, but for that: the loss may be known before the receipt is written.
CREATE OR REPLACE FUNCTION end_step(
    p_payment payments, p_outcome text, p_spent bigint, p_latency_ms integer
) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF p_payment.trace_id IS NULL THEN
        RETURN;
    END IF;
    UPDATE x402_traces t
       SET spent_end_micros = t.spent_end_micros + p_spent,
           remaining_end_micros = t.remaining_end_micros
               + CASE WHEN p_outcome = 'failed' THEN p_payment.price_micros ELSE 0 END
     WHERE t.agent_id = p_payment.agent_id AND t.trace_id = p_payment.trace_id;
    UPDATE x402_trace_steps s
       SET outcome = CASE WHEN p_outcome = 'paid'
                               AND EXISTS (SELECT 1 FROM losses l WHERE l.payment_id = p_payment.id)
                          THEN 'paid_failed' ELSE p_outcome END,
           latency_ms = coalesce(p_latency_ms, s.latency_ms),
           receipt_ref = CASE p_outcome WHEN 'paid' THEN p_payment.id::text ELSE s.receipt_ref END
     WHERE s.payment_id = p_payment.id;
END $$;

CREATE OR REPLACE FUNCTION note_lost_step() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE x402_trace_steps s SET outcome = 'paid_failed' WHERE s.payment_id = NEW.payment_id AND s.outcome = 'paid';
    ELSE
        UPDATE x402_trace_steps s SET outcome = 'paid' WHERE s.payment_id = OLD.payment_id AND s.outcome = 'paid_failed';
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS losses_step ON losses;
CREATE TRIGGER losses_step AFTER INSERT OR DELETE ON losses FOR EACH ROW EXECUTE FUNCTION note_lost_step();
REVOKE ALL ON FUNCTION note_lost_step() FROM PUBLIC;

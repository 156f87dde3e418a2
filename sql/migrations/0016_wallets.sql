-- What each agent's wallet holds, as it was seen last.
CREATE TABLE IF NOT EXISTS wallet_balances (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id          uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    wallet_address    varchar(44) NOT NULL,
    network           text NOT NULL,
    balance_cash      numeric(29, 9) NOT NULL DEFAULT 0 CHECK (balance_cash >= 0),
    balance_usdc      numeric(29, 9) NOT NULL DEFAULT 0 CHECK (balance_usdc >= 0),
    threshold         numeric(29, 9) NOT NULL CHECK (threshold >= 0),
    last_checked      timestamptz NOT NULL,
    low_balance_event boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (agent_id, wallet_address, network)
) WITH (fillfactor = 70);
COMMENT ON COLUMN wallet_balances.low_balance_event IS
    'it holds less than the threshold; whoever sees it turn true tells the operator';
CREATE INDEX IF NOT EXISTS idx_wallet_balances_checked ON wallet_balances (agent_id, last_checked);
DROP TRIGGER IF EXISTS wallet_balances_touch ON wallet_balances;
CREATE TRIGGER wallet_balances_touch BEFORE UPDATE ON wallet_balances
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE OR REPLACE FUNCTION audit_balance() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NEW.low_balance_event AND (TG_OP = 'INSERT' OR NOT OLD.low_balance_event) THEN
        PERFORM note_event(NEW.agent_id, 'LOW_BALANCE', NEW.id, jsonb_build_object(
            'wallet', NEW.wallet_address, 'network', NEW.network, 'usdc', NEW.balance_usdc,
            'cash', NEW.balance_cash, 'threshold', NEW.threshold), 'WARNING');
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS wallet_balances_audit ON wallet_balances;
CREATE TRIGGER wallet_balances_audit AFTER INSERT OR UPDATE ON wallet_balances
    FOR EACH ROW EXECUTE FUNCTION audit_balance();

-- One look at a wallet, for every active agent that it pays for; for autopay itself where it is no
-- agent's, but only some provider's. Returns how many of them it is low for and was not before.
CREATE OR REPLACE FUNCTION note_balance(
    p_wallet text, p_network text, p_usdc numeric, p_cash numeric, p_threshold numeric
) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH before AS (
        SELECT agent_id FROM wallet_balances
         WHERE wallet_address = p_wallet AND network = p_network AND low_balance_event
    ), payers AS (
        SELECT a.id FROM agents a WHERE a.is_active AND a.wallet_address = p_wallet
    ), concerned AS (
        SELECT id FROM payers
        UNION ALL
        SELECT '00000000-0000-0000-0000-000000000000'::uuid WHERE NOT EXISTS (SELECT FROM payers)
    ), now_known AS (
        INSERT INTO wallet_balances AS b (agent_id, wallet_address, network, balance_usdc, balance_cash,
                                          threshold, last_checked, low_balance_event)
        SELECT c.id, p_wallet, p_network, p_usdc, p_cash, p_threshold, now(), p_usdc + p_cash < p_threshold
          FROM concerned c
        ON CONFLICT (agent_id, wallet_address, network) DO UPDATE
           SET balance_usdc = excluded.balance_usdc, balance_cash = excluded.balance_cash,
               threshold = excluded.threshold, last_checked = excluded.last_checked,
               low_balance_event = excluded.low_balance_event
        RETURNING b.agent_id, b.low_balance_event
    )
    SELECT count(*)::integer FROM now_known n
     WHERE n.low_balance_event AND n.agent_id NOT IN (SELECT agent_id FROM before)
$$;

-- The wallet of this proxy is that of every agent which has none yet.
CREATE OR REPLACE FUNCTION adopt_wallet(p_wallet text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH adopted AS (
        UPDATE agents SET wallet_address = p_wallet
         WHERE is_active AND wallet_address = '11111111111111111111111111111111'
        RETURNING 1)
    SELECT count(*)::integer FROM adopted
$$;

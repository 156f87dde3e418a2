-- Several wallets: which of them pays for an agent is its policy's to say.

INSERT INTO error_classifications VALUES
    ('wallet_not_configured', 'funds', 'ours', false, false, 'the policy names a wallet that this proxy has not got')
ON CONFLICT (code) DO NOTHING;

-- Keeps agents.wallet_address true: the wallet that its own layer names, or else the defaults; "default"
-- where neither does. (A provider's layer may name another for what is bought there.) `p_wallets` is
-- name → address of those that one proxy has. Agents of whose wallet it knows nothing are left alone, and
-- so are those that the default wallet of another proxy pays for. Returns how many have another one now.
CREATE OR REPLACE FUNCTION assign_wallets(p_wallets jsonb) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH named AS (
        SELECT a.id, coalesce(own.rules ->> 'wallet', defaults.rules ->> 'wallet', 'default') AS wallet
          FROM agents a
          LEFT JOIN policy_rules own ON own.agent_id = a.id AND own.provider IS NULL
          LEFT JOIN policy_rules defaults ON defaults.agent_id IS NULL AND defaults.provider IS NULL
         WHERE a.is_active
    ), assigned AS (
        UPDATE agents a SET wallet_address = p_wallets ->> n.wallet
          FROM named n
         WHERE n.id = a.id AND a.wallet_address <> p_wallets ->> n.wallet
           AND (n.wallet <> 'default' OR a.wallet_address = '11111111111111111111111111111111'
                OR a.wallet_address IN (SELECT w.value FROM jsonb_each_text(p_wallets) w))
        RETURNING 1)
    SELECT count(*)::integer FROM assigned
$$;

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

REVOKE ALL ON FUNCTION assign_wallets(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION assign_wallets(jsonb) TO autopay_writer, autopay_admin;

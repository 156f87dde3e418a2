-- New kinds of budget. In a file of their own: a new value of an enum can't be used before its
-- transaction is over.
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'trace';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'agent_provider_day';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'provider_day';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'wallet_day';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'fleet_day';

create type payments.outcome as (
    provider text,
    reference text,
    session_id uuid,
    provider_session_id text,
    status text,
    provider_payment_id text,
    amount bigint,
    currency text,
    paid_at timestamptz,
    provider_customer_id text,
    refunds jsonb,
    disputed boolean,
    error_code text,
    error_message text,
    source text
);

comment on type payments.outcome is
'What a provider says about an attempt, in our words: the typed form of apply_payment_outcome''s p_outcome.';

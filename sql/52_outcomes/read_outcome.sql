create function payments.read_outcome(p_outcome jsonb)
returns payments.outcome
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome payments.outcome;
    v_wrong text;
begin
    begin
        v_outcome := jsonb_populate_record(null::payments.outcome, p_outcome);
    exception
        when data_exception then
            v_wrong := concat_ws(': ', payments.wrong_outcome_field(p_outcome), sqlerrm);
    end;
    v_outcome.currency := upper(v_outcome.currency);
    v_outcome.source := coalesce(v_outcome.source, 'webhook');
    v_wrong := coalesce(v_wrong, case
        when v_outcome.provider is null or v_outcome.provider !~ '^[a-z][a-z0-9_-]{0,62}$' then 'provider is missing or no name'
        when v_outcome.status not in ('pending', 'processing', 'completed', 'failed', 'expired', 'cancelled')
            then 'status must be pending, processing, completed, failed, expired or cancelled'
        when v_outcome.source not in ('client', 'webhook', 'verify', 'return', 'reconcile', 'cron', 'admin')
            then 'source must be client, webhook, verify, return, reconcile, cron or admin'
        when v_outcome.refunds is not null and payments.wrong_refund_field(v_outcome.refunds) is not null
            then payments.wrong_refund_field(v_outcome.refunds)
        when v_outcome.status is null and not coalesce(v_outcome.disputed, false)
            and coalesce(jsonb_array_length(v_outcome.refunds), 0) = 0
            then 'status is missing'
        when v_outcome.status = 'completed' and coalesce(length(v_outcome.provider_payment_id), 0) not between 1 and 255
            then 'provider_payment_id must have 1 to 255 characters'
        when v_outcome.status = 'completed' and (v_outcome.amount is null or v_outcome.amount < 0)
            then 'amount must be an integer in minor units, not negative'
        when v_outcome.status = 'completed' and coalesce(v_outcome.currency, '') !~ '^[A-Z]{3}$'
            then 'currency must be an ISO 4217 code'
        when length(v_outcome.provider_session_id) > 255 or length(v_outcome.provider_customer_id) > 255
            or length(v_outcome.provider_payment_id) > 255
            then 'provider_session_id, provider_payment_id and provider_customer_id must have at most 255 characters'
        when v_outcome.currency !~ '^[A-Z]{3}$' then 'currency must be an ISO 4217 code'
        when v_outcome.paid_at not between '1970-01-01Z' and now() + interval '1 day'
            then 'paid_at must be a time between 1970 and now'
    end);
    if v_wrong is not null then
        raise exception 'The outcome is not valid: %.', v_wrong
            using errcode = 'PT422', detail = 'outcome_invalid', hint = 'Correct the field of p_outcome that the message names.';
    end if;
    return v_outcome;
end;
$$;

comment on function payments.read_outcome(jsonb) is 'Types and checks an outcome. Raises PT422 outcome_invalid.';

revoke all on function payments.read_outcome(jsonb) from public, anon, authenticated, service_role;

-- What must hold for every session row, enforced where nobody can forget it. docs/states.md draws the state machine; a
-- test holds the two together. A trigger, because Postgres reads and compiles a table's CHECK constraints anew in every
-- statement: these rules as constraints cost half of an insert (docs/adr/0012).
create function payments.guard_session()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_broken text := case
        when new.status not in (
            'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
        ) then 'status_is_known'
        when new.fulfilment_status not in ('none', 'fulfilled', 'failed', 'reversed') then 'fulfilment_status_is_known'
        when (new.completed_at is not null) <> (new.status in ('completed', 'partially_refunded', 'refunded'))
            then 'paid_ones_have_a_time'
        when new.fulfilment_status <> 'none' and new.completed_at is null then 'fulfil_only_what_is_paid'
        when new.amount < 0 or new.discount_amount < 0 or new.amount <> new.original_amount - new.discount_amount
            then 'amounts_add_up'
        when new.refunded_amount not between 0 and new.amount then 'refund_only_what_is_paid'
        when new.checkout_url is not null and new.current_attempt is null then 'store_the_attempt_before_its_page'
        when new.currency !~ '^[A-Z]{3}$' then 'currency_is_an_iso_code'
        when length(new.subject) > 200 or length(new.email) > 320 or length(new.idempotency_key) > 255
            or octet_length(new.metadata::text) > 8192
            then 'texts_are_short'
    end;
begin
    if v_broken is not null then
        raise exception 'A checkout session must keep the rule payment_checkout_sessions_%.', v_broken
            using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name,
            constraint = 'payment_checkout_sessions_' || v_broken, hint = 'See payments.guard_session.';
    end if;
    if tg_op = 'INSERT' or new.status = old.status or (case old.status
        when 'pending' then new.status in ('processing', 'completed', 'failed', 'expired', 'cancelled')
        when 'processing' then new.status in ('completed', 'failed', 'expired', 'cancelled')
        when 'failed' then new.status in ('processing', 'completed')
        when 'expired' then new.status in ('processing', 'completed')
        when 'cancelled' then new.status in ('processing', 'completed')
        when 'completed' then new.status in ('partially_refunded', 'refunded')
        when 'partially_refunded' then new.status in ('refunded', 'completed')
        when 'refunded' then new.status in ('partially_refunded', 'completed')
        else false
    end) then
        return new;
    end if;
    raise exception 'A checkout session cannot go from % to %.', old.status, new.status
        using errcode = 'PT409', detail = 'illegal_transition', hint = 'See docs/states.md for the allowed changes.';
end;
$$;

comment on function payments.guard_session() is
'Row trigger of checkout sessions. Raises check_violation with the name of the rule that is broken, PT409 '
'illegal_transition.';

revoke all on function payments.guard_session() from public, anon, authenticated, service_role;

-- Every change of status of an unpaid session goes through here: one conditional statement that also writes the audit
-- row. (Completion: complete_session. Refunds: settle_refunds. Many at once: expire_old_checkout_sessions.)
create function payments.move_session(
    p_session_id uuid,
    p_from text[],
    p_move payments.move,
    p_occurred_at timestamptz,
    p_now timestamptz
)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    with old as (
        select s.id, s.status
        from public.payment_checkout_sessions as s
        where s.id = p_session_id
        for no key update
    ),

    moved as (
        update public.payment_checkout_sessions as s
        set status = p_move.to_status,
            error_code = left(p_move.error_code, 255),
            error_message = left(p_move.error_message, 500),
            expires_at = case
                when p_move.to_status = 'processing' then p_now + (select t.processing_ttl from payments.settings as t)
                else s.expires_at
            end,
            updated_at = p_now
        from old
        where s.id = old.id and old.status = any(p_from)
        returning old.status as from_status
    )

    insert into payments.session_events (session_id, from_status, to_status, source, reason, occurred_at, created_at)
    select p_session_id, moved.from_status, p_move.to_status, p_move.source, p_move.reason, p_occurred_at, p_now
    from moved;
    if not found then
        return false;
    end if;
    if p_move.to_status in ('failed', 'expired', 'cancelled') then
        perform payments.release_coupon(p_session_id, 'reserved', p_now);
    end if;
    return true;
end;
$$;

comment on function payments.move_session(uuid, text[], payments.move, timestamptz, timestamptz) is
'Moves a session out of one of the given states, and gives up its coupon place when it ends; false when it was in none '
'of them, and then nothing changed.';

revoke all on function payments.move_session(uuid, text[], payments.move, timestamptz, timestamptz)
from public, anon, authenticated, service_role;

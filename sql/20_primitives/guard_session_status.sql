-- The state machine, enforced where nobody can forget it. docs/states.md draws it; a test holds the two together.
create function payments.guard_session_status()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if (case old.status
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

comment on function payments.guard_session_status() is
'Row trigger on status changes of checkout sessions. Raises PT409 illegal_transition.';

revoke all on function payments.guard_session_status() from public, anon, authenticated, service_role;

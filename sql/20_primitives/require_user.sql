-- Whose session is meant? A NULL identity is never trusted: a signed-in user gets their own id or an error, the
-- service must name the user.
create function payments.require_user(p_user_id uuid)
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller uuid;
begin
    if payments.is_service() then
        if p_user_id is null then
            raise exception 'The service must say for which user it acts.'
                using errcode = 'PT422', detail = 'user_required', hint = 'Pass p_user_id.';
        end if;
        return p_user_id;
    end if;
    v_caller := auth.uid();
    if v_caller is null then
        raise exception 'This call needs a signed-in user.'
            using errcode = 'PT401', detail = 'not_signed_in', hint = 'Sign in and send the user''s access token.';
    end if;
    if p_user_id <> v_caller then
        raise exception 'This session belongs to another user.'
            using errcode = 'PT403', detail = 'not_your_session', hint = 'Leave p_user_id out to act for yourself.';
    end if;
    return v_caller;
end;
$$;

comment on function payments.require_user(uuid) is
'The user the caller may act for. Raises PT401 not_signed_in, PT403 not_your_session, PT422 user_required.';

revoke all on function payments.require_user(uuid) from public, anon, authenticated, service_role;
grant execute on function payments.require_user(uuid) to authenticated, service_role;

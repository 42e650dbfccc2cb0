-- The role GUC is what PostgREST sets for each request, and a SECURITY DEFINER function does not change it; 'none' is a
-- direct database login. Whoever holds service_role's rights is the service: itself, postgres, a login of the bridge's
-- own. authenticator does not, because it does not inherit.
create function payments.is_service()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return pg_has_role(coalesce(nullif(current_setting('role'), 'none'), session_user), 'service_role', 'usage');
end;
$$;

comment on function payments.is_service() is
'True when the caller is the service (service_role, or a direct login that inherits it), not a signed-in user.';

revoke all on function payments.is_service() from public, anon, authenticated, service_role;
grant execute on function payments.is_service() to authenticated, service_role;

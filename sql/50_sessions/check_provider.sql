create function payments.check_provider(p_provider text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_providers text[];
begin
    select s.providers into v_providers from payments.settings as s;
    if p_provider is null or p_provider <> all(v_providers) then
        raise exception 'There is no payment provider %.', coalesce(quote_literal(left(p_provider, 64)), 'without a name')
            using errcode = 'PT422', detail = 'provider_unknown',
            hint = format('p_provider can be one of: %s.', array_to_string(v_providers, ', '));
    end if;
end;
$$;

comment on function payments.check_provider(text) is
'Accepts the providers of payments.settings. Raises PT422 provider_unknown.';

revoke all on function payments.check_provider(text) from public, anon, authenticated, service_role;

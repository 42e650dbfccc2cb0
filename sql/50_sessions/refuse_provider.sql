create function payments.refuse_provider(p_provider text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'There is no payment provider %.', coalesce(quote_literal(left(p_provider, 64)), 'without a name')
        using errcode = 'PT422', detail = 'provider_unknown', hint = format(
            'p_provider can be one of: %s.',
            (select array_to_string(s.providers, ', ') from payments.settings as s)
        );
end;
$$;

comment on function payments.refuse_provider(text) is
'For a provider that payments.settings does not name. Raises PT422 provider_unknown.';

revoke all on function payments.refuse_provider(text) from public, anon, authenticated, service_role;

-- ISO 4217 minor-unit digits. Everything that is not listed has two.
create function payments.currency_exponent(p_currency text)
returns int
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_currency in (
            'BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'VND', 'VUV', 'XAF', 'XOF', 'XPF'
        ) then 0
        when p_currency in ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') then 3
        else 2
    end;
$$;

comment on function payments.currency_exponent(text) is
'Decimal digits of a currency''s minor unit (ISO 4217): JPY 0, USD 2, KWD 3.';

revoke all on function payments.currency_exponent(text) from public, anon, authenticated, service_role;

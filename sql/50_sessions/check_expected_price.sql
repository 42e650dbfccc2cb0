-- The client says what it showed the buyer; it can never choose what is charged.
create function payments.check_expected_price(p_price numeric, p_offer payments.offer)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (case
        -- no bigint holds what is larger: the product of a wild number is not even a number
        when p_price > 1e19 then true
        else p_price * (10::numeric ^ payments.currency_exponent(p_offer.currency)) <> p_offer.amount
    end) then
        raise exception 'The price is not % %.', left(p_price::text, 40), p_offer.currency
            using errcode = 'PT422', detail = 'price_mismatch', hint = format(
                'The amount is %s in minor units of %s. Show it with quote_checkout, or leave p_price out.',
                p_offer.amount, p_offer.currency);
    end if;
end;
$$;

comment on function payments.check_expected_price(numeric, payments.offer) is
'Compares a price in major units with the offer; null is no expectation. Raises PT422 price_mismatch.';

revoke all on function payments.check_expected_price(numeric, payments.offer)
from public, anon, authenticated, service_role;

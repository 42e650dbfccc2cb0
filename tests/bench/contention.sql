-- What the callers of contention.py fight over, and how they count what they are refused.
update payments.settings set create_limit = null;

insert into public.payment_products (id, kind, name, terms) values
('contribution', 'contribution', 'A contribution', '{}'), ('join', 'group_join', 'A place', '{}');
insert into public.payment_prices (product_id, currency, amount, is_default) values ('join', 'USD', 500, true);

create table bench.refusals (reason text not null, n int not null);
grant insert on bench.refusals to service_role;

create function bench.buy_with_coupon(p_n int, p_coupon text) returns uuid language plpgsql as $$
declare
    v_reason text;
begin
    return public.get_or_create_checkout_session('credits_100', bench.user_id(p_n), p_coupon => p_coupon);
exception when sqlstate 'PT409' then
    get stacked diagnostics v_reason = pg_exception_detail;
    insert into bench.refusals (reason, n) values (v_reason, p_n);
    return null;
end;
$$;

create function bench.spend(p_user int, p_n int) returns jsonb language plpgsql as $$
declare
    v_reason text;
begin
    return public.spend_credits(bench.user_id(p_user), 1, 'work', 'key ' || p_n);
exception when sqlstate 'PT402' then
    get stacked diagnostics v_reason = pg_exception_detail;
    insert into bench.refusals (reason, n) values (v_reason, p_n);
    return null;
end;
$$;

-- One user's sessions of one plan, each for another subject.
create procedure bench.open_many(p_user int, p_from int, p_to int) language sql as $$
    insert into bench.purchases (n, session_id, naive_id)
    select
        n, public.get_or_create_checkout_session('credits_100', bench.user_id(p_user), p_subject => n::text),
        gen_random_uuid()
    from generate_series(p_from, p_to) as n
$$;

create procedure bench.pay(p_from int, p_to int) language sql as $$
    select public.complete_checkout_session(p.session_id, p_provider_payment_id => 'pi_' || p.n)
    from bench.purchases as p
    where p.n between p_from and p_to
$$;

-- A group of p_capacity that the first user makes, and the others want to join.
create procedure bench.open_group(p_capacity int, p_from int, p_to int) language plpgsql as $$
declare
    v_group uuid;
    v_circle text := 'circle_' || p_from;
begin
    insert into public.payment_products (id, kind, name, terms)
    values (v_circle, 'group_create', 'A circle', jsonb_build_object(
        'capacity', p_capacity, 'contribution_product', 'contribution', 'cycle', '1 month', 'join_product', 'join'
    ));
    insert into public.payment_prices (product_id, currency, amount, is_default) values (v_circle, 'USD', 500, true);
    insert into auth.users (id, email) values (bench.user_id(-p_from), v_circle || '@example.test');
    v_group := public.get_or_create_checkout_session(v_circle, bench.user_id(-p_from));
    perform public.complete_checkout_session(v_group, p_provider_payment_id => 'pi_' || v_circle);
    insert into bench.purchases (n, session_id, naive_id)
    select n, public.get_or_create_checkout_session('join', bench.user_id(n), p_subject => v_group::text), v_group
    from generate_series(p_from, p_to) as n;
end;
$$;

-- The honest rival: what people write today. It doubles credits and sessions under concurrency; here it only has to be
-- fast. SELECT then INSERT, SELECT FOR UPDATE, several UPDATEs, triggers for updated_at and an audit trail.
create schema naive;

create table naive.sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    product_id text not null references public.payment_products (id),
    status text not null default 'pending',
    provider text not null default 'stripe',
    provider_session_id text,
    provider_payment_id text,
    amount bigint not null,
    currency text not null,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    expires_at timestamptz not null default now() + interval '1 day',
    completed_at timestamptz
);

create index on naive.sessions (user_id);
create index on naive.sessions (product_id);
create index on naive.sessions (status);
create index on naive.sessions (created_at);
create index on naive.sessions (expires_at);
create index on naive.sessions (provider, provider_session_id);

create table naive.credits (
    user_id uuid primary key references auth.users (id) on delete cascade,
    balance bigint not null default 0,
    updated_at timestamptz not null default now()
);

create table naive.payments (
    id bigint generated always as identity primary key,
    session_id uuid not null references naive.sessions (id) on delete cascade,
    provider_payment_id text not null unique,
    amount bigint not null,
    currency text not null,
    created_at timestamptz not null default now()
);

create table naive.audit (
    id bigint generated always as identity primary key,
    table_name text not null,
    old_row jsonb,
    new_row jsonb,
    created_at timestamptz not null default now()
);

create function naive.touch() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end;
$$;

create function naive.log() returns trigger language plpgsql as $$
begin
    insert into naive.audit (table_name, old_row, new_row)
    values (tg_table_name, case when tg_op = 'UPDATE' then to_jsonb(old) end, to_jsonb(new));
    return null;
end;
$$;

create trigger touch before update on naive.sessions for each row execute function naive.touch();
create trigger touch before update on naive.credits for each row execute function naive.touch();
create trigger log after insert or update on naive.sessions for each row execute function naive.log();

create function naive.get_or_create(p_user_id uuid, p_product_id text)
returns uuid language plpgsql security definer set search_path = '' as $$
declare
    v_id uuid;
    v_price public.payment_prices;
begin
    select s.id into v_id
    from naive.sessions as s
    where s.user_id = p_user_id and s.product_id = p_product_id and s.status = 'pending' and s.expires_at > now()
    order by s.created_at desc
    limit 1;
    if v_id is not null then
        update naive.sessions set expires_at = now() + interval '1 day' where id = v_id;
        return v_id;
    end if;
    select * into v_price from public.payment_prices where product_id = p_product_id and is_default;
    insert into naive.sessions (user_id, product_id, amount, currency)
    values (p_user_id, p_product_id, v_price.amount, v_price.currency)
    returning id into v_id;
    return v_id;
end;
$$;

create function naive.complete(p_session_id uuid, p_payment_id text)
returns boolean language plpgsql security definer set search_path = '' as $$
declare
    v_session naive.sessions;
    v_credits bigint;
begin
    select * into v_session from naive.sessions where id = p_session_id for update;
    if v_session.status = 'completed' then
        return false;
    end if;
    update naive.sessions set provider_payment_id = p_payment_id where id = p_session_id;
    insert into naive.payments (session_id, provider_payment_id, amount, currency)
    values (p_session_id, p_payment_id, v_session.amount, v_session.currency);
    select (terms ->> 'credits')::bigint into v_credits from public.payment_products where id = v_session.product_id;
    insert into naive.credits (user_id, balance) values (v_session.user_id, 0) on conflict do nothing;
    perform 1 from naive.credits where user_id = v_session.user_id for update;
    update naive.credits set balance = balance + v_credits where user_id = v_session.user_id;
    update naive.sessions set status = 'completed', completed_at = now() where id = p_session_id;
    return true;
end;
$$;

grant usage on schema naive to service_role;

-- Who may use Sluice: accounts, and the tokens by which they are known, too.

-- +goose Up

create table account (
    -- The first one has number 1: tasks name who dispatched them by it.
    id         bigint generated always as identity primary key,
    domain_id  uuid not null default '00000000-0000-7000-8000-000000000001' references domain (id),
    username   text not null unique,
    -- argon2id with its parameters and its salt, in the PHC form, so that parameters can be changed while old ones are still good.
    password   text not null check (password like '$argon2id$%'),
    -- The password is one that everybody knows.
    well_known boolean not null default false,
    created_at timestamptz not null default now()
);

create table account_token (
    -- SHA-256 of the token: who reads this table can't use what he finds. Tokens are random, so nothing slower is needed.
    digest     bytea primary key check (length(digest) = 32),
    account_id bigint not null references account (id) on delete cascade,
    created_at timestamptz not null default now(),
    -- When it was used last, to the hour. No index names it: writing it should stay cheap.
    used_at    timestamptz not null default now()
) with (fillfactor = 80);

create index account_token_account on account_token (account_id, created_at);

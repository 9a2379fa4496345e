-- +goose Up

-- Where the holder of a lease can be reached, for the standby that wants to hear from it when it stops. Empty: nowhere.
alter table lease add column address text not null default '';

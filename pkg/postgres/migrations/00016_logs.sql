-- +goose Up

-- How many bytes a run has written in all, as far as its text goes. Who follows a log knows by it what is new, although the text is only
-- the end. 0: it was stored by an executor that does not say so, and is at least as much as there is.
alter table task_log add column written bigint not null default 0;

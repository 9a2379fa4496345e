package faults

import (
	"slices"
	"strings"
)

// Request is what a client sent at once and waits for: one simple query, or a batch up to its Sync.
type Request struct {
	// Statements are its SQL, in order.
	Statements []string
	// Transaction are all statements of the transaction that it is part of: those of the requests before it, and its own.
	Transaction []string
	// Commits says that a transaction is over when this is answered, and done if it went well: it has a commit in it, or no
	// transaction was open.
	Commits bool
}

// Match picks requests. It is asked about one request at a time, so it may count.
type Match func(Request) bool

// Any matches every request.
func Any(Request) bool { return true }

// Saying matches a request in which one statement contains all these parts. Case and white space do not matter.
func Saying(parts ...string) Match {
	return func(r Request) bool { return says(r.Statements, parts) }
}

// Committing matches the request that ends a transaction in which one statement contains all these parts.
func Committing(parts ...string) Match {
	return func(r Request) bool { return r.Commits && says(r.Transaction, parts) }
}

// Every matches each n-th of the requests that match does: the n-th first.
func Every(n int, match Match) Match {
	seen := 0
	return func(r Request) bool {
		if !match(r) {
			return false
		}
		seen++
		return seen%n == 0
	}
}

func says(statements, parts []string) bool {
	return slices.ContainsFunc(statements, func(sql string) bool {
		sql = plain(sql)
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(sql, plain(part)) })
	})
}

func plain(sql string) string { return strings.ToLower(strings.Join(strings.Fields(sql), " ")) }

// request is one as it will be sent on.
type request struct {
	Request

	messages []message
	// commit is the place among the messages from which on the server commits; -1 when it does not, or when that is in the
	// middle of a message.
	commit int
	// split: a part of it was sent on already, as the client asked for answers before the end.
	split bool
}

// newRequest makes one of messages, where before are the statements of the transaction that is open, if one is.
func newRequest(messages []message, open bool, before []string) *request {
	r := &request{messages: messages, commit: -1}
	begins := false
	for i, m := range messages {
		sql, found := m.sql()
		if !found {
			continue
		}
		r.Statements = append(r.Statements, sql)
		pieces := []string{sql}
		if m.kind == msgQuery {
			pieces = strings.Split(sql, ";") // as far as no string contains one, which in "begin; …" would be odd
		}
		for _, piece := range pieces {
			switch word, _, _ := strings.Cut(plain(piece), " "); word {
			case "begin", "start":
				begins = true
			case "commit", "end":
				r.Commits = true
				if r.commit < 0 && (m.kind == msgParse || len(pieces) == 1) {
					r.commit = i
				}
			case "rollback", "abort":
				open = true // whatever it ends, it does not commit
			}
		}
	}
	if !open && !begins && len(r.Statements) > 0 {
		r.Commits = true
		if last := len(messages) - 1; r.commit < 0 && messages[last].kind == msgSync {
			r.commit = last
		}
	}
	r.Transaction = append(slices.Clone(before), r.Statements...)
	return r
}

// executions is how many times messages ask for something to be executed.
func executions(messages []message) (n int) {
	for _, m := range messages {
		if m.kind == msgExecute {
			n++
		}
	}
	return n
}

func joined(messages []message) []byte {
	var all []byte
	for _, m := range messages {
		all = append(all, m.raw...)
	}
	return all
}

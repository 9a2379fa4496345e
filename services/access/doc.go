// Package access knows who may use Sluice.
//
// # Owns
//
// The accounts and their tokens, and how fast passwords may be guessed. Everybody who has an account is an administrator.
//
// # Passwords
//
// They are kept as argon2id, each with its own salt and with the parameters by which it was made, so that those can change: a login
// with a password of before makes it anew. Whether there is such a user can't be told by how long a refusal takes.
//
// # Guesses
//
// A guess is one password for one name. Wrong ones are counted by name and by where they come from (of IPv6 the first 64 bits, which
// is what one subscriber has). Three are free. From then on there is one guess at a time, and a pause after each wrong one: a quarter
// of a second, doubled with each, at most eight seconds. Each quiet minute forgives one. So who guesses makes some 11,000 a day.
//
//   - The pause is before the next guess, whoever makes it: with the right password one waits, too, but is not refused. Who is
//     alone with the attacker waits for one pause or two.
//   - Whoever has come in before, since this process began, from the same address by the same name does not wait for guesses that
//     come from elsewhere. So an attack from many addresses does not keep people out who are where they usually are.
//   - The same wrong password given again is no new guess: it tells its sender nothing. It is refused after the pause, without
//     being in anybody's way. Old passwords that programs go on sending keep nobody out.
//   - When more guesses wait than can be made in twenty seconds, further ones are refused at once with a hint when to come back.
//
// Who shares address and name with an attacker, because a proxy hides them both, may have to try again. His tokens still work: what
// can't be guessed is not counted. And whoever may use the gRPC address needs no password.
//
// How many passwords are computed at a time is bounded, because each takes 19 MiB and a processor. The counts are in memory, so each
// process has its own, and a restart forgets them.
//
// # Tokens
//
// 192 random bits, of which only the SHA-256 is kept. One is good for 30 days from its last use, which is written once an hour at
// most. A user has the newest hundred. Another password ends them all.
//
// # Failure
//
// When the database is away nobody is known, and that is said as such: UNAVAILABLE, not UNAUTHENTICATED. No password and no token is
// logged, nor a name that nobody has, which may be a password in the wrong field.
package access

package access

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// cost is what one computation of argon2id takes.
type cost struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

// usual is the least that OWASP recommends. RFC 9106 would rather have 64 MiB and four threads, where there is room; this is beside a
// dispatcher, on which everybody waits, and a gateway asks it again every half a minute. It takes some 27 ms of one processor.
var usual = cost{memory: 19 * 1024, passes: 2, threads: 1}

const (
	saltSize = 16 // bytes
	hashSize = 32 // bytes
	// A row that somebody tampered with must not take all the memory.
	mostMemory, mostPasses = 1 << 20, 64 // KiB, passes
)

// secret is a password as it is kept.
type secret struct {
	cost cost
	salt []byte
	hash []byte
}

// conceal makes of a password what is kept of it.
func conceal(password string) string {
	s := secret{cost: usual, salt: make([]byte, saltSize)}
	_, _ = rand.Read(s.salt) // crypto/rand.Read never returns an error since Go 1.24
	s.hash = s.of(password)
	return s.String()
}

// of computes the hash of a password with the same salt and cost.
func (s secret) of(password string) []byte {
	return argon2.IDKey([]byte(password), s.salt, s.cost.passes, s.cost.memory, s.cost.threads, hashSize)
}

// matches reports whether it is the secret of the password.
func (s secret) matches(password string) bool {
	return subtle.ConstantTimeCompare(s.of(password), s.hash) == 1
}

// String is the PHC form: "$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>".
func (s secret) String() string {
	text := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, s.cost.memory, s.cost.passes, s.cost.threads, text(s.salt), text(s.hash))
}

// parseSecret is the inverse of String. Its errors don't show what they are about.
func parseSecret(text string) (s secret, err error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return secret{}, fmt.Errorf("read a password: it is not argon2id")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return secret{}, fmt.Errorf("read a password: unknown version of argon2id")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &s.cost.memory, &s.cost.passes, &s.cost.threads); err != nil {
		return secret{}, fmt.Errorf("read the cost of a password: %w", err)
	}
	if c := s.cost; c.memory < 8 || c.memory > mostMemory || c.passes < 1 || c.passes > mostPasses || c.threads < 1 {
		return secret{}, fmt.Errorf("read a password: its cost is out of bounds")
	}
	var saltErr, hashErr error
	s.salt, saltErr = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	s.hash, hashErr = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if saltErr != nil || hashErr != nil || len(s.salt) < 8 || len(s.hash) != hashSize {
		return secret{}, fmt.Errorf("read a password: its salt or its hash is broken")
	}
	return s, nil
}

// nobody's secret makes a guess at the password of who does not exist take as long as any other.
var nobodys = secret{cost: usual, salt: make([]byte, saltSize), hash: make([]byte, hashSize)}

package limits

import (
	"strings"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
)

// credentials checks only sizes: what no user can have is refused as wrong, not as malformed.
func (c *checks) credentials(r *accessv1.AuthenticateRequest) {
	switch given := r.GetCredentials().(type) {
	case *accessv1.AuthenticateRequest_Password:
		c.size(at("password.username"), given.Password.GetUsername(), MaxUsername)
		c.size(at("password.password"), given.Password.GetPassword(), MaxPassword)
	case *accessv1.AuthenticateRequest_Token:
		c.size(at("token"), given.Token, MaxToken)
	default:
		c.fail(at("credentials"), "is required")
	}
	c.text(at("client"), r.GetClient(), MaxAddress)
}

func (c *checks) username(at path, name string) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@.+-_"
	if name == "" || len(name) > MaxUsername || strings.Trim(name, letters) != "" {
		c.fail(at, "must be 1 to %d letters, digits and any of @ . + - _", MaxUsername)
	}
}

func (c *checks) newPassword(at path, username, password string) {
	c.size(at, password, MaxPassword)
	switch {
	case len(password) < MinPassword:
		c.fail(at, "must have at least %d bytes", MinPassword)
	case strings.EqualFold(password, username):
		c.fail(at, "must not be the name of the user")
	}
}

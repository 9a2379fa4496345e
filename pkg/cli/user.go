package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/term"

	"github.com/sluice-tasks/sluice/pkg/client"
	"github.com/sluice-tasks/sluice/pkg/limits"
)

// UserCmd looks after users.
type UserCmd struct {
	Add      UserAddCmd      `cmd:"" help:"Make a user."`
	List     UserListCmd     `cmd:"" help:"List the users."`
	Password UserPasswordCmd `cmd:"" help:"Change a password."`
	Delete   UserDeleteCmd   `cmd:"" help:"Delete users."`
}

// PasswordFlag says where a password comes from. Never from the command line itself: other users of the machine can read that.
type PasswordFlag struct {
	PasswordStdin bool `name:"password-stdin" help:"Read the password from standard input, up to its end. Default: ask at the terminal."`
}

// read reads a password, at a terminal twice. A line end behind it is not part of it.
func (f PasswordFlag) read(env *Environment, name string) (string, error) {
	if f.PasswordStdin {
		given, err := io.ReadAll(io.LimitReader(env.Stdin, limits.MaxPassword+3))
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		given = bytes.TrimSuffix(bytes.TrimSuffix(given, []byte("\n")), []byte("\r"))
		if len(given) == 0 {
			return "", usage("--password-stdin: there is nothing on standard input")
		}
		return string(given), nil
	}
	terminal, ok := env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return "", usage("there is no terminal to ask at: give --password-stdin and the password on standard input")
	}
	first, err := askHidden(env, terminal, "New password for "+printable(name)+": ")
	if err != nil {
		return "", err
	}
	second, err := askHidden(env, terminal, "Again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", usage("these are two different passwords")
	}
	return first, nil
}

// askHidden reads a line that is not shown.
func askHidden(env *Environment, terminal *os.File, question string) (string, error) {
	fmt.Fprint(env.Stderr, question)
	answer, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(env.Stderr)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(answer), nil
}

// UserAddCmd makes a user.
type UserAddCmd struct {
	Name string `arg:"" help:"Name: 1 to 150 letters, digits and any of @ . + - _."`
	PasswordFlag
	Connection
}

// Help is the longer explanation.
func (*UserAddCmd) Help() string {
	return `Every user may do everything, over REST: with name and password, or with a token. Who can reach the gRPC address needs neither. A password has 8 bytes at least and is not the name. With --output json: the user.

    sluice user add ada
    pass show sluice | sluice user add ada --password-stdin`
}

// Run makes it.
func (c *UserAddCmd) Run(ctx context.Context, env *Environment) error {
	password, err := c.read(env, c.Name)
	if err != nil {
		return err
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		made, err := s.CreateUser(ctx, c.Name, password)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(viewUser(made))
		}
		s.printf("made user %s\n", made.Username)
		if made.WellKnownPassword {
			s.note("everybody knows this password: REST is only served on loopback addresses with it")
		}
		return nil
	})
}

// UserListCmd lists the users.
type UserListCmd struct {
	Connection
}

// Help is the longer explanation.
func (*UserListCmd) Help() string {
	return `PASSWORD says whether it is one that everybody knows, as the one that 'sluice dev' gives its first user; with such a user REST is only served on loopback addresses. With --output json: an array of users.

    sluice user list`
}

// Run prints the list.
func (c *UserListCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		users, err := s.Users(ctx)
		switch {
		case err != nil:
			return err
		case s.json:
			return s.printJSON(views(users, viewUser))
		case len(users) == 0:
			s.note("there is no user; `sluice user add` makes one")
			return nil
		}
		rows := [][]string{{"ID", "NAME", "AGE", "PASSWORD"}}
		for _, u := range users {
			password := "own"
			if u.WellKnownPassword {
				password = "well known"
			}
			rows = append(rows, []string{strconv.FormatInt(u.ID, 10), u.Username, s.since(u.CreatedAt), password})
		}
		s.printTable(rows)
		return nil
	})
}

// UserPasswordCmd changes a password.
type UserPasswordCmd struct {
	Name string `arg:"" help:"Name of the user."`
	PasswordFlag
	Connection
}

// Help is the longer explanation.
func (*UserPasswordCmd) Help() string {
	return `The tokens of the user end with it. A gateway takes the old password and the old tokens for up to half a minute longer if they were used just before. A password has 8 bytes at least and is not the name. With --output json: an object with the name.

    sluice user password admin`
}

// Run changes it.
func (c *UserPasswordCmd) Run(ctx context.Context, env *Environment) error {
	password, err := c.read(env, c.Name)
	if err != nil {
		return err
	}
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		if err := s.SetPassword(ctx, c.Name, password); err != nil {
			return err
		}
		if s.json {
			return s.printJSON(map[string]string{"username": c.Name})
		}
		s.printf("changed the password of %s\n", c.Name)
		return nil
	})
}

// UserDeleteCmd deletes users.
type UserDeleteCmd struct {
	Name []string `arg:"" help:"Names of users."`
	Connection
}

// Help is the longer explanation.
func (*UserDeleteCmd) Help() string {
	return `Their tokens are deleted with them, their tasks stay. With --output json: an array of the names.

    sluice user delete ada`
}

// Run deletes them.
func (c *UserDeleteCmd) Run(ctx context.Context, env *Environment) error {
	return c.with(ctx, env, func(ctx context.Context, s *session) error {
		return each(ctx, s, c.Addr, c.Name, func(name string) (map[string]string, string, error) {
			return map[string]string{"username": name}, printable(name) + " deleted", s.DeleteUser(ctx, name)
		})
	})
}

// userView is one element of what `user list` prints.
type userView struct {
	ID                int64  `json:"id"`
	Username          string `json:"username"`
	CreatedAt         stamp  `json:"created_at"`
	WellKnownPassword bool   `json:"well_known_password"`
}

func viewUser(u client.User) userView {
	return userView{ID: u.ID, Username: u.Username, CreatedAt: stamp(u.CreatedAt), WellKnownPassword: u.WellKnownPassword}
}

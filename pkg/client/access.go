package client

import (
	"context"
	"time"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
)

// User may use Sluice over REST.
type User struct {
	// ID counts from 1.
	ID        int64
	Username  string
	CreatedAt time.Time
	// WellKnownPassword: everybody knows it, since `sluice dev` gave it.
	WellKnownPassword bool
}

// Users returns all users, by name.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	answer, err := c.access.ListUsers(ctx, &accessv1.ListUsersRequest{})
	if err != nil {
		return nil, err
	}
	made := make([]User, len(answer.GetUsers()))
	for i, u := range answer.GetUsers() {
		made[i] = fromUser(u)
	}
	return made, nil
}

// CreateUser makes a user, who is an administrator like all. The name is 1 to 150 letters, digits and any of @ . + - _, the password
// has 8 to 1,024 bytes. A name that is taken: reason errs.UserExists.
func (c *Client) CreateUser(ctx context.Context, username, password string) (User, error) {
	answer, err := c.access.CreateUser(ctx, &accessv1.CreateUserRequest{Username: username, Password: password})
	if err != nil {
		return User{}, err
	}
	return fromUser(answer.GetUser()), nil
}

// SetPassword changes a password and ends the tokens of the user. Unknown: reason errs.UserNotFound.
func (c *Client) SetPassword(ctx context.Context, username, password string) error {
	_, err := c.access.SetPassword(ctx, &accessv1.SetPasswordRequest{Username: username, Password: password})
	return err
}

// DeleteUser removes a user and the user's tokens; tasks stay. Unknown: reason errs.UserNotFound.
func (c *Client) DeleteUser(ctx context.Context, username string) error {
	_, err := c.access.DeleteUser(ctx, &accessv1.DeleteUserRequest{Username: username})
	return err
}

func fromUser(u *accessv1.User) User {
	return User{
		ID: u.GetId(), Username: u.GetUsername(), CreatedAt: u.GetCreatedAt().AsTime(), WellKnownPassword: u.GetWellKnownPassword(),
	}
}

package postgres

import "github.com/pressly/goose/v3/database"

// What tests need to see and nobody else: migrations other than the built-in ones.
var (
	MigrateFiles  = migrate
	CheckSchemaAt = checkSchema
	HeadVersion   = headVersion
	BuiltIn       = migrations
)

// TransactionLock is the locker that Migrate gives to goose.
type TransactionLock = transactionLock

// NewTransactionLock returns one for migrations that end at head.
func NewTransactionLock(store database.Store, head int64) *TransactionLock {
	return &transactionLock{store: store, head: head}
}

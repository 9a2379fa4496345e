package cli

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// databaseURL is the one variable that is honoured without our prefix, because hosting platforms set it.
const databaseURL = "DATABASE_URL"

// variables lets every flag also be given in the environment: --grpc-addr as SLUICE_GRPC_ADDR. The parser could do it by
// itself, but only from the process's own environment, and with a note behind every flag's help.
type variables struct {
	lookup func(string) (string, bool)
	names  map[*kong.Flag][]string
	// used says which flag got its value from which variable, for the words of an error.
	used map[string]string
}

// name gives each flag its variables, the strongest first, and takes them out of the parser's hands.
func (v *variables) name(parser *kong.Kong) error {
	v.names = map[*kong.Flag][]string{}
	v.used = map[string]string{}
	return kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		flag, ok := node.(*kong.Flag)
		if !ok {
			return next(nil)
		}
		names := flag.Envs
		flag.Envs, flag.Tag.Envs = nil, nil
		if !slices.Contains(names, "-") {
			names = append([]string{variable(flag.Name)}, names...)
			if flag.Name == "database-url" {
				names = append(names, databaseURL)
			}
			v.names[flag] = slices.Compact(names)
		}
		return next(nil)
	})
}

// variable spells a flag's name as the name of its variable.
func variable(flag string) string {
	return "SLUICE_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(flag))
}

// Resolve implements kong.Resolver. An empty variable counts as unset: compose files set many of these.
func (v *variables) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range v.names[flag] {
		if value, set := v.lookup(name); set && value != "" {
			v.used["--"+flag.Name] = name
			return value, nil
		}
	}
	return nil, nil //nolint:nilnil // kong's way to say that there is no value
}

// Validate implements kong.Resolver. Unknown variables are nobody's business: they may belong to another version.
func (v *variables) Validate(*kong.Application) error { return nil }

package house

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// exempt may contain such statements, each for a reason.
var exempt = []string{
	"pkg/postgres/embedded", // sets up the server it has just started, through that server's own socket
	"pkg/testkit/house",     // names them
}

// sessionRules recognize statements that leave something behind in the session. A pooler in transaction mode gives the
// next transaction another session, and the one that was left like that to somebody else; RDS Proxy pins the session
// instead, and the pooling is gone. They match one statement, without comments and the contents of strings, on one line.
var sessionRules = []struct {
	statement *regexp.Regexp
	rule      string
}{
	{
		// A server parameter is in lower case and has an underscore, unlike what a sentence tells a person to set.
		regexp.MustCompile(`^(?i:set) (?i:session )?(?:[a-z]+_[a-z_.]+|[a-z]+\.[a-z_.]+|(?i:datestyle|role|timezone)) ?(?:=|(?i:to) )`),
		"SET changes the session; use `set local` in a transaction",
	},
	{
		regexp.MustCompile(`(?i)^set (session )?(session authorization|session characteristics|time zone) |^set role `),
		"SET changes the session; use `set local` in a transaction",
	},
	{
		regexp.MustCompile(`(?i)\bset_config ?\([^)]*, ?false ?\)`),
		"set_config(…, false) changes the session; true keeps it in the transaction",
	},
	{
		regexp.MustCompile(`(?i)^(reset (all|role|[a-z]+_[a-z_.]+)|discard (all|plans|sequences|temp|temporary))$`),
		"RESET and DISCARD are about the session, which is not ours",
	},
	{
		regexp.MustCompile(`(?i)^(un)?listen [*\w"%]+$`),
		"LISTEN hears nothing behind a pooler, without an error; look from time to time, and hint through gRPC",
	},
	{
		regexp.MustCompile(`(?i)^notify ["\w%]+( ?,.*)?$|\bpg_notify ?\(`),
		"nobody can LISTEN behind a pooler; hint through gRPC",
	},
	{
		regexp.MustCompile(`(?i)\bpg_(try_)?advisory_(un)?lock(_shared|_all)?\b`),
		"a session's advisory lock is granted to two clients at once behind a pooler; take pg_advisory_xact_lock",
	},
	{
		regexp.MustCompile(`(?i)^(prepare ["\w]+( ?\([^)]*\))? as |deallocate (prepare )?["\w]+$)`),
		"a prepared statement belongs to the session; the pool sends unnamed ones",
	},
	{
		regexp.MustCompile(`(?i)\bcreate ((local|global) )?temp(orary)? (table|view|sequence|recursive view)\b|^select .* into temp(orary)? `),
		"a temporary table belongs to the session; use a common table expression or unnest",
	},
	{
		regexp.MustCompile(`(?i)\bdeclare ["\w]+ .*\bcursor with hold\b`),
		"a cursor WITH HOLD belongs to the session; read by pages",
	},
}

func (c *checker) sqlFile(name string, text []byte) { c.session(name, 1, string(text)) }

// sessionInStrings looks at every string in a Go file, however many pieces it is written in. Tests are left out: they look
// for pieces of statements in the server's log, and what they leave in a session is their own affair.
func (c *checker) sessionInStrings(file goFile) {
	if file.test() || file.in(exempt...) {
		return
	}
	var visit func(ast.Node) bool
	visit = func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.BasicLit:
			c.session(file.path, c.set.Position(n.Pos()).Line, literal(n))
		case *ast.BinaryExpr:
			if n.Op != token.ADD {
				return true
			}
			var text strings.Builder
			for _, part := range operands(n) {
				if lit, ok := part.(*ast.BasicLit); ok {
					text.WriteString(literal(lit))
					continue
				}
				text.WriteString("x") // a value that only the program knows; as SQL, a name
				ast.Inspect(part, visit)
			}
			c.session(file.path, c.set.Position(n.Pos()).Line, text.String())
			return false
		}
		return true
	}
	ast.Inspect(file.File, visit)
}

// operands are the parts of a sum, from left to right.
func operands(e ast.Expr) []ast.Expr {
	switch n := e.(type) {
	case *ast.BinaryExpr:
		if n.Op == token.ADD {
			return append(operands(n.X), operands(n.Y)...)
		}
	case *ast.ParenExpr:
		return operands(n.X)
	}
	return []ast.Expr{e}
}

// literal is what a string stands for; other constants are nothing to us.
func literal(lit *ast.BasicLit) string {
	if lit.Kind != token.STRING {
		return ""
	}
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		return "" // the parser has seen to it
	}
	return text
}

// session checks SQL, or what may be SQL, that begins on the given line.
func (c *checker) session(name string, line int, text string) {
	for _, statement := range strings.Split(bare(text), ";") {
		begin := line + strings.Count(statement[:len(statement)-len(strings.TrimLeft(statement, " \t\n"))], "\n")
		oneLine := strings.Join(strings.Fields(statement), " ")
		for _, r := range sessionRules {
			if r.statement.MatchString(oneLine) {
				c.add(name, begin, r.rule)
				break
			}
		}
		line += strings.Count(statement, "\n")
	}
}

var commentOrString = regexp.MustCompile(`--[^\n]*|(?s:/\*.*?\*/)|'[^']*'`)

// bare takes comments and the contents of strings out of SQL, and leaves its lines where they are.
func bare(text string) string {
	return commentOrString.ReplaceAllStringFunc(text, func(found string) string {
		lines := strings.Repeat("\n", strings.Count(found, "\n"))
		if found[0] == '\'' {
			return "'" + lines + "'"
		}
		return " " + lines
	})
}

package gateway

import "strings"

const (
	// maxComplexity is what Pulp allows: each filter counts one, and so does each NOT and each row of ANDs or ORs.
	maxComplexity = 8
	// maxParentheses bounds the recursion: parentheses alone add no complexity.
	maxParentheses = 100
)

// What the parameter q is refused with, in Pulp's words.
const (
	errSyntax     = valueError("Syntax error in expression.")
	errComplexity = valueError("Filter expression exceeds allowed complexity.")
	errOrdering   = valueError("An ordering filter cannot be used in complex filtering.")
	errNested     = valueError("You cannot use 'q' in complex filtering.")
)

type operator int

const (
	opFilter operator = iota // key=value
	opNot
	opAll
	opAny
)

// expression is a parsed q: `state=failed AND NOT (name__contains=sync OR name="a b")`.
type expression struct {
	operator   operator
	key, value string        // of a filter
	of         []*expression // of the others
}

// complexity is counted as Pulp does.
func (e *expression) complexity() int {
	sum := 1
	for _, part := range e.of {
		sum += part.complexity()
	}
	return sum
}

// parseExpression reads a q. NOT binds closest, then AND, then OR.
func parseExpression(text string) (*expression, error) {
	p := &parser{rest: text}
	e, err := p.row(opAny)
	if err != nil {
		return nil, err
	}
	if p.space(); p.rest != "" {
		return nil, errSyntax
	}
	if e.complexity() > maxComplexity {
		return nil, errComplexity
	}
	return e, nil
}

type parser struct {
	rest  string
	depth int
	seen  int // filters and NOTs, to stop early
}

func (p *parser) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

// word takes a keyword, in any case. One that an equals sign follows is the key of a filter.
func (p *parser) word(keyword string) bool {
	p.space()
	if len(p.rest) < len(keyword) || !strings.EqualFold(p.rest[:len(keyword)], keyword) {
		return false
	}
	after := p.rest[len(keyword):]
	if after != "" && (slug(after[0]) || after[0] == '=') {
		return false
	}
	p.rest = after
	return true
}

// row is operands with the same operator between them.
func (p *parser) row(op operator) (*expression, error) {
	operand, keyword := func() (*expression, error) { return p.row(opAll) }, "OR"
	if op == opAll {
		operand, keyword = p.operand, "AND"
	}
	first, err := operand()
	if err != nil {
		return nil, err
	}
	row := &expression{operator: op, of: []*expression{first}}
	for p.word(keyword) {
		next, err := operand()
		if err != nil {
			return nil, err
		}
		row.of = append(row.of, next)
	}
	if len(row.of) == 1 {
		return first, nil
	}
	return row, nil
}

// operand is a filter, a NOT, or something in parentheses.
func (p *parser) operand() (*expression, error) {
	p.space()
	switch {
	case p.word("NOT"):
		if err := p.count(); err != nil {
			return nil, err
		}
		negated, err := p.operand()
		if err != nil {
			return nil, err
		}
		return &expression{operator: opNot, of: []*expression{negated}}, nil
	case strings.HasPrefix(p.rest, "("):
		if p.depth++; p.depth > maxParentheses {
			return nil, errComplexity
		}
		p.rest = p.rest[1:]
		inner, err := p.row(opAny)
		if err != nil {
			return nil, err
		}
		p.depth--
		if p.space(); !strings.HasPrefix(p.rest, ")") {
			return nil, errSyntax
		}
		p.rest = p.rest[1:]
		return inner, nil
	default:
		if err := p.count(); err != nil {
			return nil, err
		}
		return p.filter()
	}
}

func (p *parser) count() error {
	if p.seen++; p.seen > maxComplexity {
		return errComplexity
	}
	return nil
}

// filter is key=value, without blanks around the equals sign, as in Pulp.
func (p *parser) filter() (*expression, error) {
	end := strings.IndexFunc(p.rest, func(r rune) bool { return r > 127 || !slug(byte(r)) })
	if end < 1 || p.rest[end] != '=' || p.rest[0] < 'A' { // a digit does not begin a key
		return nil, errSyntax
	}
	e := &expression{key: p.rest[:end]}
	p.rest = p.rest[end+1:]
	var ok bool
	if e.value, ok = p.text(); !ok {
		return nil, errSyntax
	}
	return e, nil
}

// text is a value: in quotes, where a backslash lets quotes and backslashes stand for themselves, or up to the next blank or
// parenthesis. Pulp takes fewer characters outside of quotes; times and hrefs need more.
func (p *parser) text() (string, bool) {
	if p.rest == "" {
		return "", false
	}
	quote := p.rest[0]
	if quote != '"' && quote != '\'' {
		end := strings.IndexAny(p.rest, " \t\r\n()\"'=")
		if end < 0 {
			end = len(p.rest)
		}
		value := p.rest[:end]
		p.rest = p.rest[end:]
		return value, value != "" && !strings.HasPrefix(p.rest, "=") && !strings.HasPrefix(p.rest, `"`) && !strings.HasPrefix(p.rest, "'")
	}
	var value strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == quote:
			p.rest = p.rest[i+1:]
			return value.String(), true
		case c == '\\' && i+1 < len(p.rest) && strings.IndexByte(`\"'`, p.rest[i+1]) >= 0:
			i++
			value.WriteByte(p.rest[i])
		default:
			value.WriteByte(c)
		}
	}
	return "", false
}

// slug reports whether the byte can be in the name of a filter.
func slug(b byte) bool {
	return b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

package limits

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// json checks JSON text whose first character must be open ('[' or '{', or 0 for any value). Depth is bounded because the
// database's own parser gives up on deep nesting with an error that names no field.
func (c *checks) json(at path, text string, open byte) {
	switch {
	case text == "":
		return
	case len(text) > MaxJSON:
		c.fail(at, "must be at most %d bytes, has %d", MaxJSON, len(text))
	case !utf8.ValidString(text):
		c.fail(at, "must be valid UTF-8")
	case !json.Valid([]byte(text)):
		c.fail(at, "must be valid JSON%s", where(text))
	case depth(text) > MaxJSONDepth:
		c.fail(at, "must be nested at most %d deep", MaxJSONDepth)
	case open == '[' && first(text) != '[':
		c.fail(at, "must be a JSON array, is %s", kind(text))
	case open == '{' && first(text) != '{':
		c.fail(at, "must be a JSON object, is %s", kind(text))
	}
}

// where says at which byte the text stops being JSON.
func where(text string) string {
	var v any
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal([]byte(text), &v), &syntax) {
		return fmt.Sprintf(": %s at byte %d", syntax.Error(), syntax.Offset)
	}
	return ""
}

// depth is the deepest nesting of arrays and objects in valid JSON.
func depth(text string) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '[' || b == '{':
			now++
			deepest = max(deepest, now)
		case b == ']' || b == '}':
			now--
		}
	}
	return deepest
}

func first(text string) byte {
	for i := range len(text) {
		switch text[i] {
		case ' ', '\t', '\n', '\r':
		default:
			return text[i]
		}
	}
	return 0
}

func kind(text string) string {
	switch first(text) {
	case '[':
		return "an array"
	case '{':
		return "an object"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

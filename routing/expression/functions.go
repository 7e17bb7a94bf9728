package expression

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
)

// functions are what expressions can call beyond what expr brings.
//
// Those that read a client's value give the default for what is missing, null
// or a word, as servers do. A value that some server takes for a number, and
// they do not, is an error: the default may be far less than what that server
// reads.
func functions() []expr.Option {
	number := []any{new(func(float64) float64), new(func(int) float64)}
	withDefault := []any{new(func(any, float64) float64), new(func(any, int) float64)}
	return []expr.Option{
		expr.Function("gib", amountOf("gib", 1<<30), number...),
		expr.Function("mib", amountOf("mib", 1<<20), number...),
		expr.Function("num", num, withDefault...),
		expr.Function("megapixels", megapixels, withDefault...),
		expr.Function("flag", flag, new(func(any, bool) bool)),
		expr.Function("has", has, new(func(any, string) bool)),
	}
}

// amountOf makes the function that turns a number of units into bytes.
func amountOf(name string, unit float64) func(...any) (any, error) {
	return func(args ...any) (any, error) {
		n, ok := number(args[0])
		if !ok {
			return nil, fmt.Errorf("%s(%T) is not a number", name, args[0])
		}
		return n * unit, nil
	}
}

// num is a number, or a text that holds one. What is less than 1, and a text
// that is not a whole number, counts as the default at least, for to many servers
// these are as good as missing. A negative number is an error, for to some it
// means no limit.
func num(args ...any) (any, error) {
	fallback, _ := number(args[1])
	n, ok, err := numeric(args[0])
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return fallback, nil
	}
	if text, isText := args[0].(string); n < 1 || isText && strings.Trim(text, "0123456789") != "" {
		return max(n, fallback), nil
	}
	return n, nil
}

// megapixels is the product of a size such as "1024x1024" in millions, with the
// care of num. A size in any other writing counts as the default at least, for
// some servers do not know it.
func megapixels(args ...any) (any, error) {
	fallback, _ := number(args[1])
	text, ok := args[0].(string)
	switch {
	case args[0] == nil:
		return fallback, nil
	case !ok:
		return nil, fmt.Errorf("%T is not a size", args[0])
	}
	found := size.FindStringSubmatch(text)
	if found == nil {
		if strings.ContainsFunc(text, isDigit) || strings.Contains(strings.ToLower(text), "inf") {
			return nil, fmt.Errorf("%.20q is not clearly a size", text)
		}
		return fallback, nil
	}
	width, errWidth := strconv.ParseFloat(found[1], 64)
	height, errHeight := strconv.ParseFloat(found[2], 64)
	if errWidth != nil || errHeight != nil {
		return nil, fmt.Errorf("%.20q is too large", text)
	}
	n := width * height / 1e6
	if n == 0 || text != found[1]+"x"+found[2] {
		n = max(n, fallback)
	}
	return n, nil
}

// size has whole numbers alone: of others, some servers take the digits after
// the point.
var size = regexp.MustCompile(`^\s*\+?([0-9]+)\s*[xX×*]\s*\+?([0-9]+)\s*$`)

// decimal is the numbers that all parsers read alike, or that the lenient ones
// read as less: some stop at the first byte that is not a digit, so there is no
// negative exponent; some read no underscores and no hexadecimal digits.
var decimal = regexp.MustCompile(`^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE]\+?[0-9]+)?$`)

// numeric gives a client's number. It is not ok where there is none at all.
func numeric(v any) (n float64, ok bool, err error) {
	text, isText := v.(string)
	if !isText {
		if v == nil {
			return 0, false, nil
		}
		if n, ok = number(v); !ok {
			return 0, false, fmt.Errorf("%T is not a number", v)
		}
		if n < 0 || math.IsNaN(n) {
			return 0, false, fmt.Errorf("%v is not an amount", n)
		}
		return n, true, nil
	}
	trimmed := strings.Trim(text, " \t\r\n")
	if decimal.MatchString(trimmed) {
		if n, err = strconv.ParseFloat(trimmed, 64); err == nil {
			return n, true, nil
		}
	}
	if strings.ContainsFunc(trimmed, isDigit) {
		return 0, false, fmt.Errorf("%.20q is not clearly a number", text)
	}
	switch strings.ToLower(strings.TrimLeft(trimmed, "+-")) {
	case "nan", "inf", "infinity":
		return 0, false, fmt.Errorf("%.20q is not an amount", text)
	}
	return 0, false, nil
}

// isDigit takes all that is not ASCII for a digit: Python's int() reads those of
// other scripts.
func isDigit(c rune) bool { return '0' <= c && c <= '9' || c >= 0x80 }

// number is for the numbers that expressions hold: float64 from bodies and
// divisions, int from literals and lengths.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int:
		return float64(n), true
	case nil:
		return 0, false
	}
	if v := reflect.ValueOf(v); v.CanInt() {
		return float64(v.Int()), true
	}
	return 0, false
}

// flag is a client's yes or no. A text that says no is an error: to some
// servers every text is a yes.
func flag(args ...any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return args[1], nil
	case bool:
		return v, nil
	case float64:
		if v == 0 || v == 1 {
			return v == 1, nil
		}
	case string:
		switch strings.ToLower(strings.Trim(v, " \t\r\n")) {
		case "true", "t", "yes", "y", "on", "1":
			return true, nil
		case "":
			return args[1], nil
		}
		return nil, fmt.Errorf("%.20q is not clearly yes or no", v)
	}
	return nil, fmt.Errorf("%T is neither yes nor no", args[0])
}

// has says whether a map has a key, or a list an element.
func has(args ...any) (any, error) {
	key, ok := args[1].(string)
	if !ok {
		return nil, fmt.Errorf("has(…, %T) is not a string", args[1])
	}
	switch c := args[0].(type) {
	case map[string]any:
		_, ok = c[key]
		return ok, nil
	case map[string]string:
		_, ok = c[key]
		return ok, nil
	case []any:
		return slices.ContainsFunc(c, func(v any) bool { return v == any(key) }), nil
	}
	return false, nil
}

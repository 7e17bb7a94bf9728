package memory

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is an amount of memory. Its text form takes binary (KiB, MiB, GiB,
// TiB) and decimal (kB, KB, MB, GB, TB) units, or B.
type Bytes int64

const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// units is ordered so that a longer suffix is tried before one it ends with.
var units = []struct {
	suffix string
	size   Bytes
}{
	{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"TiB", TiB},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1},
}

// ParseBytes reads an amount such as "34GiB", "0.5 GiB" or "1048576B". It
// refuses negative amounts, those that do not fit an int64, and those without a
// unit but for 0: a user who writes 34 means 34GiB.
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSpace(s)
	if n, err := strconv.ParseFloat(text, 64); err == nil && n == 0 {
		return 0, nil
	} else if err == nil && n > 0 {
		return 0, fmt.Errorf("%s has no unit: want %s", text, withUnit(text, n))
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		n *= float64(u.size)
		// A float64 of 2^63 is already past the largest int64.
		if err != nil || math.IsNaN(n) || n < 0 || n >= math.MaxInt64 {
			break
		}
		return Bytes(n), nil
	}
	if number, unit := meant(text); unit != "" {
		return 0, fmt.Errorf("%q is not an amount of memory: want %s%siB, or %s%sB for powers of ten", s, number, unit, number, unit)
	}
	return 0, fmt.Errorf("%q is not an amount of memory: want a number with a unit, such as 34GiB, 512MiB or 34GB", s)
}

// meant is the number and the letter of the unit of an amount that is written as other
// programs have it: 48gb, 48G or 48Gi. Empty: it is none.
func meant(text string) (number, unit string) {
	number = strings.TrimRight(text, "bBiIkKmMgGtT")
	if unit = strings.ToUpper(text[len(number):]); unit == "" || !strings.Contains("KMGT", unit[:1]) {
		return "", ""
	}
	number = strings.TrimSpace(number)
	if n, err := strconv.ParseFloat(number, 64); err != nil || !(n >= 0) {
		return "", ""
	}
	return number, unit[:1]
}

// withUnit is what a number without a unit may have meant.
func withUnit(text string, n float64) string {
	if n < float64(MiB) {
		return text + "GiB, or another unit of KiB, MiB or TiB"
	}
	return Bytes(min(n, math.MaxInt64/2)).String() + ", or " + text + "B"
}

// UnmarshalText reads what ParseBytes reads.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// MarshalText writes what String writes.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String writes the amount in the largest binary unit that keeps it above one,
// with up to two decimals: "34GiB", "1.5MiB", "512B".
func (b Bytes) String() string {
	for _, u := range []struct {
		suffix string
		size   Bytes
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if b >= u.size || b <= -u.size {
			v := math.Round(float64(b)/float64(u.size)*100) / 100
			return strconv.FormatFloat(v, 'f', -1, 64) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

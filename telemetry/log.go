package telemetry

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

// newLog returns the process's logger, and the writer of request lines; nil: the logger
// writes them.
func newLog(c LogConfig, w io.Writer) (*slog.Logger, *lineWriter) {
	var level slog.Level
	// Check has checked the text; the zero level is info.
	_ = level.UnmarshalText([]byte(c.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	if _, ok := w.(*LogWriter); !ok {
		w = &serial{to: w}
	}
	return slog.New(slog.NewJSONHandler(w, options)), &lineWriter{to: w}
}

// serial lets one goroutine at a time write.
type serial struct {
	mu sync.Mutex
	to io.Writer // guarded by mu
}

func (s *serial) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(line)
}

// lineWriter writes the lines of requests in the format of slog's JSON handler, without
// allocations, because there is a line for each request.
type lineWriter struct {
	to    io.Writer // takes writes from any goroutine
	lines sync.Pool
}

// write writes a line. Attributes are texts and numbers.
func (w *lineWriter) write(level slog.Level, message string, attributes []slog.Attr) {
	line, ok := w.lines.Get().(*[]byte)
	if !ok {
		fresh := make([]byte, 0, 1<<10)
		line = &fresh
	}
	b := append((*line)[:0], `{"time":"`...)
	b = time.Now().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","level":"`...)
	b = append(b, level.String()...)
	b = append(b, `","msg":`...)
	b = appendJSON(b, message)
	for i := range attributes {
		b = append(b, ',')
		b = appendJSON(b, attributes[i].Key)
		b = append(b, ':')
		switch v := attributes[i].Value; v.Kind() {
		case slog.KindString:
			b = appendJSON(b, v.String())
		case slog.KindInt64:
			b = strconv.AppendInt(b, v.Int64(), 10)
		case slog.KindUint64:
			b = strconv.AppendUint(b, v.Uint64(), 10)
		case slog.KindFloat64:
			b = strconv.AppendFloat(b, v.Float64(), 'f', -1, 64)
		default:
			b = appendJSON(b, v.String())
		}
	}
	b = append(b, "}\n"...)
	w.to.Write(b) // there is nowhere to tell of its failure
	*line = b
	w.lines.Put(line)
}

// appendJSON adds a text with its quotes.
func appendJSON(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(b, quoted(text)...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// quoted is a text that needs more than quotes.
func quoted(text string) []byte {
	var out jsonText
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a text can be encoded
	return out[:len(out)-1]  // without the end of the line
}

type jsonText []byte

func (t *jsonText) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	return len(p), nil
}

// line writes a line of the request's.
func (q *Request) line(level slog.Level, message string, attributes []slog.Attr) {
	if q.t.lines != nil {
		q.t.lines.write(level, message, attributes)
		return
	}
	q.t.log.LogAttrs(context.Background(), level, message, slices.Clone(attributes)...)
}

package telemetry

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// Spans are encoded directly from their records, by trace.proto and common.proto of
// opentelemetry-proto v1. Messages of the generated code would take a hundred allocations a
// request. The numbers in the calls are field numbers.

// appendSpan adds a span as the field spans of ScopeSpans.
func appendSpan(b []byte, s *span) []byte {
	b, start := open(b, 2)
	trace, id := s.id.TraceID(), s.id.SpanID()
	b = appendBytes(b, 1, trace[:])
	b = appendBytes(b, 2, id[:])
	if s.id.TraceState().Len() > 0 {
		b = appendText(b, 3, s.id.TraceState().String())
	}
	if parent := s.parent.SpanID(); parent.IsValid() {
		b = appendBytes(b, 4, parent[:])
	}
	b = appendText(b, 5, s.name)
	b = appendNumber(b, 6, uint64(s.kind))
	b = appendTime(b, 7, s.began)
	b = appendTime(b, 8, s.ended)
	b = append(b, s.attributes...)
	b = appendNumber(b, 10, uint64(s.dropped.attributes))
	for i := range s.events {
		b = appendEvent(b, &s.events[i])
	}
	b = appendNumber(b, 12, uint64(s.dropped.events))
	for i := range s.links {
		b = appendLink(b, &s.links[i])
	}
	b = appendNumber(b, 14, uint64(s.dropped.links))
	b, status := open(b, 15)
	if s.status.Code == codes.Error {
		b = appendText(b, 2, s.status.Description)
		b = appendNumber(b, 3, uint64(tracepb.Status_STATUS_CODE_ERROR))
	}
	b = shut(b, status)
	b = appendFlags(b, 16, uint32(s.id.TraceFlags()), s.parent.IsRemote())
	return shut(b, start)
}

func appendEvent(b []byte, e *sdktrace.Event) []byte {
	b, start := open(b, 11)
	b = appendTime(b, 1, e.Time)
	b = appendText(b, 2, e.Name)
	b = appendAttributes(b, 3, e.Attributes)
	b = appendNumber(b, 4, uint64(e.DroppedAttributeCount))
	return shut(b, start)
}

func appendLink(b []byte, l *sdktrace.Link) []byte {
	b, start := open(b, 13)
	trace, id := l.SpanContext.TraceID(), l.SpanContext.SpanID()
	b = appendBytes(b, 1, trace[:])
	b = appendBytes(b, 2, id[:])
	b = appendAttributes(b, 4, l.Attributes)
	b = appendNumber(b, 5, uint64(l.DroppedAttributeCount))
	b = appendFlags(b, 6, uint32(l.SpanContext.TraceFlags()), l.SpanContext.IsRemote())
	return shut(b, start)
}

func appendAttributes(b []byte, field protowire.Number, all []attribute.KeyValue) []byte {
	for i := range all {
		b = appendAttribute(b, field, &all[i])
	}
	return b
}

// appendAttribute adds an attribute as a KeyValue. Attributes of spans are texts, numbers
// and booleans. Other types, which a resource may have, are written as text.
func appendAttribute(b []byte, field protowire.Number, a *attribute.KeyValue) []byte {
	if a.Value.Type() == attribute.STRING {
		if short, ok := appendShort(b, field, string(a.Key), a.Value.AsString()); ok {
			return short
		}
	}
	var pair, value int
	b, pair = open(b, field)
	b = appendText(b, 1, string(a.Key))
	b, value = open(b, 2)
	switch a.Value.Type() {
	case attribute.BOOL:
		b = protowire.AppendTag(b, 2, protowire.VarintType)
		b = protowire.AppendVarint(b, protowire.EncodeBool(a.Value.AsBool()))
	case attribute.INT64:
		b = protowire.AppendTag(b, 3, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(a.Value.AsInt64()))
	case attribute.FLOAT64:
		b = protowire.AppendTag(b, 4, protowire.Fixed64Type)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(a.Value.AsFloat64()))
	case attribute.STRING:
		b = appendText(b, 1, a.Value.AsString())
	default:
		b = appendText(b, 1, a.Value.String())
	}
	return shut(shut(b, value), pair)
}

// appendShort does the same with a text all of whose lengths are one byte.
func appendShort(b []byte, field protowire.Number, key, value string) (grown []byte, ok bool) {
	size := 2 + len(key) + 2 + 2 + len(value)
	if size >= 0x80 || field >= 0x10 || !utf8.ValidString(key) || !utf8.ValidString(value) {
		return b, false
	}
	const message = byte(protowire.BytesType)
	b = append(b, byte(field)<<3|message, byte(size), 1<<3|message, byte(len(key)))
	b = append(b, key...)
	b = append(b, 2<<3|message, byte(2+len(value)), 1<<3|message, byte(len(value)))
	return append(b, value...), true
}

// appendText adds a text, also an empty one, because an empty text is a value. It replaces
// bytes that are no UTF-8, because a collector would refuse the whole message.
func appendText(b []byte, field protowire.Number, text string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return protowire.AppendString(b, text)
}

func appendBytes(b []byte, field protowire.Number, bytes []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), bytes)
}

// appendNumber leaves out zero, as proto3 does.
func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

func appendTime(b []byte, field protowire.Number, at time.Time) []byte {
	b = protowire.AppendTag(b, field, protowire.Fixed64Type)
	return binary.LittleEndian.AppendUint64(b, uint64(max(0, at.UnixNano())))
}

// appendFlags adds W3C's flags, and whether the parent, or what is linked, is in
// another process.
func appendFlags(b []byte, field protowire.Number, flags uint32, remote bool) []byte {
	flags |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if remote {
		flags |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	b = protowire.AppendTag(b, field, protowire.Fixed32Type)
	return binary.LittleEndian.AppendUint32(b, flags)
}

// open begins a message within a message, and shut ends it. The length comes before the
// message and is known only at its end. open leaves one byte for it, which is enough below
// 128.
func open(b []byte, field protowire.Number) (grown []byte, start int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	return b, len(b)
}

func shut(b []byte, start int) []byte {
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	more := protowire.SizeVarint(uint64(n)) - 1
	b = append(b, "\x00\x00\x00\x00\x00\x00\x00\x00\x00"[:more]...)
	copy(b[start+more:], b[start:start+n])
	protowire.AppendVarint(b[:start-1], uint64(n))
	return b
}

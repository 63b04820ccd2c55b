package wire

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

const (
	// tableBytes is the segment table with one entry: count minus one, then words of the segment; little-endian uint32 each.
	tableBytes = 8
	wordBytes  = 8
)

// Kinds of a pointer: its two lowest bits.
const (
	kindStruct = 0
	kindList   = 1
)

// Sizes of a list's elements.
const (
	elementByte      = 2
	elementPointer   = 6
	elementComposite = 7
)

// segment reads one Cap'n Proto message of exactly one segment. It copies nothing.
//
// The first fault sticks: from then on every read gives zeros, so a decoder reads all of a frame and looks at err once.
//
// Every word of a well-formed frame is read at most once, so what may be read is limited to the length of the frame:
// pointers that overlap cannot make it look larger than it is.
type segment struct {
	bytes []byte
	// left is how many words may still be read.
	left int
	err  error
}

// view is a struct in a segment. Beyond its end everything is zero: that is how a field looks that its sender does not know.
type view struct {
	segment *segment
	data    []byte
	// pointers is the word where the pointers begin.
	pointers     int
	pointerCount int
}

// list is a list of structs or of pointers in a segment.
type list struct {
	segment *segment
	// first is the word of the first element.
	first int
	len   int
	// dataWords and pointerCount are those of each element.
	dataWords, pointerCount int
}

// openSegment checks the segment table and gives the root struct.
func openSegment(input []byte, bytesMax int, into *segment) (view, error) {
	if len(input) > bytesMax {
		return view{}, tooLarge("frame", len(input), bytesMax)
	}
	if len(input) < tableBytes+wordBytes || len(input)%wordBytes != 0 ||
		binary.LittleEndian.Uint32(input) != 0 ||
		uint64(binary.LittleEndian.Uint32(input[4:])) != uint64(len(input)-tableBytes)/wordBytes {
		return view{}, badFrame("the frame is not one whole segment")
	}
	*into = segment{bytes: input[tableBytes:], left: len(input)/wordBytes - 1}
	into.take(1)
	return into.structAt(0), into.err
}

func (s *segment) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// take counts words as read.
func (s *segment) take(words int) bool {
	if s.err != nil {
		return false
	}
	if words > s.left {
		s.fail(badFrame("there is more to read than the frame is long"))
		return false
	}
	s.left -= words
	return true
}

func (s *segment) word(at int) uint64 {
	return binary.LittleEndian.Uint64(s.bytes[at*wordBytes:])
}

// span tells whether words from start are all in the segment.
func (s *segment) span(start, words int) bool {
	if start < 0 || words < 0 || start > len(s.bytes)/wordBytes-words {
		s.fail(badFrame("a pointer leads out of the frame"))
		return false
	}
	return s.take(words)
}

// target is the word that the pointer at a word leads to, counted from behind the pointer.
func target(at int, pointer uint64) int {
	return at + 1 + int(int32(uint32(pointer))>>2)
}

// structAt follows the pointer at a word. A null pointer is a struct of zeros.
//
// A far pointer is refused like one to another segment: in a frame of one segment no writer has a use for it.
func (s *segment) structAt(at int) view {
	empty := view{segment: s}
	if s.err != nil {
		return empty
	}
	pointer := s.word(at)
	if pointer == 0 {
		return empty
	}
	if pointer&3 != kindStruct {
		s.fail(badFrame("a pointer leads to something else than a struct"))
		return empty
	}
	start, dataWords, pointerCount := target(at, pointer), int(uint16(pointer>>32)), int(uint16(pointer>>48))
	if !s.span(start, dataWords+pointerCount) {
		return empty
	}
	return s.viewOf(start, dataWords, pointerCount)
}

func (s *segment) viewOf(start, dataWords, pointerCount int) view {
	pointers := start + dataWords
	return view{
		segment:      s,
		data:         s.bytes[start*wordBytes : pointers*wordBytes],
		pointers:     pointers,
		pointerCount: pointerCount,
	}
}

// bytesAt follows the pointer at a word to a list of bytes; nil for a null pointer.
func (s *segment) bytesAt(at int) []byte {
	if s.err != nil {
		return nil
	}
	pointer := s.word(at)
	if pointer == 0 {
		return nil
	}
	if pointer&3 != kindList || pointer>>32&7 != elementByte {
		s.fail(badFrame("a pointer leads to something else than bytes"))
		return nil
	}
	start, size := target(at, pointer), int(pointer>>35)
	if !s.span(start, (size+wordBytes-1)/wordBytes) {
		return nil
	}
	return s.bytes[start*wordBytes : start*wordBytes+size : start*wordBytes+size]
}

func (s *segment) textAt(at int, what string) []byte {
	if s.err != nil || s.word(at) == 0 {
		return nil
	}
	text := s.bytesAt(at)
	if s.err != nil {
		return nil
	}
	if len(text) == 0 || text[len(text)-1] != 0 {
		s.fail(badFrame(what + " has no closing zero"))
		return nil
	}
	text = text[:len(text)-1]
	if !utf8.Valid(text) {
		s.fail(badFrame(what + " is not UTF-8"))
		return nil
	}
	return text
}

// structsAt follows the pointer at a word to a list of structs.
func (s *segment) structsAt(at int) list {
	empty := list{segment: s}
	if s.err != nil {
		return empty
	}
	pointer := s.word(at)
	if pointer == 0 {
		return empty
	}
	if pointer&3 != kindList || pointer>>32&7 != elementComposite {
		s.fail(badFrame("a pointer leads to something else than a list of structs"))
		return empty
	}
	// The list's own words, and one in front that says what its elements are.
	tagAt, words := target(at, pointer), int(pointer>>35)
	if !s.span(tagAt, words+1) {
		return empty
	}
	tag := s.word(tagAt)
	count, dataWords, pointerCount := int(uint32(tag)>>2), int(uint16(tag>>32)), int(uint16(tag>>48))
	size := dataWords + pointerCount
	if tag&3 != kindStruct || uint64(count)*uint64(size) > uint64(words) {
		s.fail(badFrame("a list is longer than its words"))
		return empty
	}
	// An element that takes no room counts as a word.
	if size == 0 && !s.take(count) {
		return empty
	}
	return list{segment: s, first: tagAt + 1, len: count, dataWords: dataWords, pointerCount: pointerCount}
}

// pointersAt follows the pointer at a word to a list of pointers.
func (s *segment) pointersAt(at int) list {
	empty := list{segment: s}
	if s.err != nil {
		return empty
	}
	pointer := s.word(at)
	if pointer == 0 {
		return empty
	}
	if pointer&3 != kindList || pointer>>32&7 != elementPointer {
		s.fail(badFrame("a pointer leads to something else than a list of pointers"))
		return empty
	}
	start, count := target(at, pointer), int(pointer>>35)
	if !s.span(start, count) {
		return empty
	}
	return list{segment: s, first: start, len: count, pointerCount: 1}
}

// limit refuses a list over its limit, and makes it empty then.
func (l list) limit(what string, lenMax int) list {
	if l.len > lenMax {
		l.segment.fail(tooLarge(what, l.len, lenMax))
		l.len = 0
	}
	return l
}

func (l list) structAt(index int) view {
	return l.segment.viewOf(l.first+index*(l.dataWords+l.pointerCount), l.dataWords, l.pointerCount)
}

func (l list) textAt(index int, what string) []byte {
	return l.segment.textAt(l.first+index, what)
}

func (v view) uint16(offset int) uint16 {
	if offset+2 > len(v.data) {
		return 0
	}
	return binary.LittleEndian.Uint16(v.data[offset:])
}

func (v view) uint32(offset int) uint32 {
	if offset+4 > len(v.data) {
		return 0
	}
	return binary.LittleEndian.Uint32(v.data[offset:])
}

func (v view) uint64(offset int) uint64 {
	if offset+8 > len(v.data) {
		return 0
	}
	return binary.LittleEndian.Uint64(v.data[offset:])
}

// bit is the lowest bit of a byte.
func (v view) bit(offset int) bool {
	return offset < len(v.data) && v.data[offset]&1 != 0
}

// number is a uint64 that must not be 0.
func (v view) number(offset int, what string) uint64 {
	number := v.uint64(offset)
	if number == 0 {
		v.segment.fail(invalid(what + " is 0"))
	}
	return number
}

func (v view) structAt(index int) view {
	if index >= v.pointerCount {
		return view{segment: v.segment}
	}
	return v.segment.structAt(v.pointers + index)
}

func (v view) structsAt(index int) list {
	if index >= v.pointerCount {
		return list{segment: v.segment}
	}
	return v.segment.structsAt(v.pointers + index)
}

func (v view) pointersAt(index int) list {
	if index >= v.pointerCount {
		return list{segment: v.segment}
	}
	return v.segment.pointersAt(v.pointers + index)
}

func (v view) bytesAt(index int) []byte {
	if index >= v.pointerCount {
		return nil
	}
	return v.segment.bytesAt(v.pointers + index)
}

func (v view) textAt(index int, what string) []byte {
	if index >= v.pointerCount {
		return nil
	}
	return v.segment.textAt(v.pointers+index, what)
}

func (v view) positionAt(index int, what string) Position {
	position := v.structAt(index)
	epoch := position.uint32(0)
	if epoch == 0 {
		v.segment.fail(invalid(what + " has epoch 0"))
	}
	return Position{Epoch: epoch, Offset: position.uint64(8)}
}

// builder appends one frame to a buffer, objects in the order in which they are made.
type builder struct {
	buf []byte
	// begin is where the segment begins in buf.
	begin int
}

// object is a struct being built.
type object struct {
	// at is its first word.
	at int
	// pointers is its first pointer's word.
	pointers int
}

// newFrame begins a frame: its table, its root pointer, and the root with the data and pointers that both kinds of frame have.
func newFrame(buf []byte, request uint32, member uint16) (builder, object) {
	b := builder{buf: append(buf, 0, 0, 0, 0, 0, 0, 0, 0)}
	b.begin = len(b.buf)
	rootPointer := b.alloc(1)
	root := b.structFor(rootPointer, 1, 1)
	b.setUint32(root, 0, request)
	b.setUint16(root, 4, member)
	return b, root
}

// finish writes the table and gives the buffer with the frame.
func (b *builder) finish() []byte {
	words := (len(b.buf) - b.begin) / wordBytes
	if words > math.MaxInt32 {
		panic("wire: no frame within its limits has 2^31 words")
	}
	binary.LittleEndian.PutUint32(b.buf[b.begin-4:], uint32(words))
	return b.buf
}

// alloc appends zeroed words and gives the first.
func (b *builder) alloc(words int) int {
	at := (len(b.buf) - b.begin) / wordBytes
	for ; words >= len(zeros)/wordBytes; words -= len(zeros) / wordBytes {
		b.buf = append(b.buf, zeros[:]...)
	}
	b.buf = append(b.buf, zeros[:words*wordBytes]...)
	return at
}

var zeros [256]byte

// distance is the offset part of a pointer at a word.
func distance(at, target int) uint64 {
	return uint64(uint32(int32(target-at-1) << 2))
}

// structFor appends a struct and lets the pointer at a word lead to it.
func (b *builder) structFor(pointer, dataWords, pointerCount int) object {
	at := b.alloc(dataWords + pointerCount)
	b.setWord(pointer, distance(pointer, at)|uint64(dataWords)<<32|uint64(pointerCount)<<48)
	return object{at: at, pointers: at + dataWords}
}

// structsFor appends a list of structs and lets the pointer at a word lead to it.
func (b *builder) structsFor(pointer, count, dataWords, pointerCount int) (first int) {
	size := dataWords + pointerCount
	tag := b.alloc(1 + count*size)
	b.setWord(pointer, distance(pointer, tag)|kindList|elementComposite<<32|uint64(count*size)<<35)
	b.setWord(tag, uint64(count)<<2|uint64(dataWords)<<32|uint64(pointerCount)<<48)
	return tag + 1
}

// pointersFor appends a list of pointers and lets the pointer at a word lead to it.
func (b *builder) pointersFor(pointer, count int) (first int) {
	first = b.alloc(count)
	b.setWord(pointer, distance(pointer, first)|kindList|elementPointer<<32|uint64(count)<<35)
	return first
}

// setBytes appends bytes, padded to words, and lets the pointer at a word lead to them.
func (b *builder) setBytes(pointer int, bytes []byte) {
	at := (len(b.buf) - b.begin) / wordBytes
	b.setWord(pointer, distance(pointer, at)|kindList|elementByte<<32|uint64(len(bytes))<<35)
	b.buf = append(b.buf, bytes...)
	b.pad(len(bytes))
}

// setText appends a text with its closing zero. An empty text takes no room.
func (b *builder) setText(pointer int, text string) {
	if text == "" {
		return
	}
	at := (len(b.buf) - b.begin) / wordBytes
	b.setWord(pointer, distance(pointer, at)|kindList|elementByte<<32|uint64(len(text)+1)<<35)
	b.buf = append(b.buf, text...)
	b.buf = append(b.buf, 0)
	b.pad(len(text) + 1)
}

func (b *builder) pad(size int) {
	if over := size % wordBytes; over != 0 {
		b.buf = append(b.buf, zeros[:wordBytes-over]...)
	}
}

func (b *builder) setPosition(pointer int, position Position) {
	place := b.structFor(pointer, 2, 0)
	b.setUint32(place, 0, position.Epoch)
	b.setUint64(place, 8, position.Offset)
}

func (b *builder) setWord(at int, word uint64) {
	binary.LittleEndian.PutUint64(b.buf[b.begin+at*wordBytes:], word)
}

func (b *builder) setUint16(o object, offset int, value uint16) {
	binary.LittleEndian.PutUint16(b.buf[b.begin+o.at*wordBytes+offset:], value)
}

func (b *builder) setUint32(o object, offset int, value uint32) {
	binary.LittleEndian.PutUint32(b.buf[b.begin+o.at*wordBytes+offset:], value)
}

func (b *builder) setUint64(o object, offset int, value uint64) {
	binary.LittleEndian.PutUint64(b.buf[b.begin+o.at*wordBytes+offset:], value)
}

func (b *builder) setBit(o object, offset int, value bool) {
	if value {
		b.buf[b.begin+o.at*wordBytes+offset] |= 1
	}
}

package millrace

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"millrace.dev/go/internal/wire"
)

// checkName refuses what no channel can be called. A character that is newer than this program's tables is left to the node.
func checkName(name string) error {
	switch {
	case name == "":
		return &NameError{Reason: "it is empty"}
	case len(name) > wire.NameBytesMax:
		return &NameError{Name: name, Reason: fmt.Sprintf("it is %d bytes, the limit is %d", len(name), wire.NameBytesMax)}
	case !utf8.ValidString(name):
		return &NameError{Name: name, Reason: "it is not UTF-8"}
	}
	for _, char := range name {
		isAssigned := unicode.In(char, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z, unicode.C)
		isAlphanumeric := unicode.IsLetter(char) || unicode.IsNumber(char) || unicode.Is(unicode.Other_Alphabetic, char)
		if isAssigned && !isAlphanumeric && !strings.ContainsRune("-_.:@~", char) {
			return &NameError{Name: name, Reason: fmt.Sprintf("it has %q; letters, digits and -_.:@~ are allowed", char)}
		}
	}
	return nil
}

package millrace

import "context"

// transport opens connections of a kind. It knows nothing of what frames say.
type transport interface {
	// dial opens a connection; ctx bounds only the opening.
	dial(ctx context.Context, to endpoint) (connection, error)
}

// connection carries whole frames both ways. One goroutine receives and one sends; close and abort may be called from any.
type connection interface {
	// receive waits for the next frame, whose bytes are good until the next call. Its error says how the connection ended: a
	// *RefusedError with the code of the protocol that it was closed with, a *ProtocolError if what came is no frame, else a
	// *DisconnectedError.
	receive() ([]byte, error)
	// send writes frames, in one piece as far as the transport can.
	send(frames *batch) error
	// close says goodbye, behind what was sent, and waits for the answer, which receive must be reading for.
	close()
	// abort ends the connection at once.
	abort()
}

// batch is frames in one buffer.
type batch struct {
	bytes []byte
	// ends has where each frame ends.
	ends []int
}

func (b *batch) clear() { b.bytes, b.ends = b.bytes[:0], b.ends[:0] }

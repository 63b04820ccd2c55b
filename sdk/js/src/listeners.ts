// Listeners of a client or a channel, told in the order in which they came.

/** Told of one kind of event. What it throws, or rejects with, is reported as an uncaught error and stops nothing. */
export type Listener<T> = (event: T) => unknown;

export class Listeners<Events> {
  private readonly byType = new Map<keyof Events, Set<Listener<never>>>();

  /** Adds a listener; returns what removes it. */
  add<Type extends keyof Events>(type: Type, listener: Listener<Events[Type]>): () => void {
    const listeners = this.byType.get(type) ?? new Set();
    this.byType.set(type, listeners);
    // Each call has an entry of its own, so that what it returns removes just that.
    const entry: Listener<Events[Type]> = (event) => listener(event);
    listeners.add(entry);
    return () => {
      listeners.delete(entry);
    };
  }

  has(type: keyof Events): boolean {
    return (this.byType.get(type)?.size ?? 0) > 0;
  }

  /** Tells an event. Returns a promise if a listener did, which is kept when all of them are. */
  tell<Type extends keyof Events>(type: Type, event: Events[Type]): Promise<unknown> | undefined {
    const busy: Promise<unknown>[] = [];
    for (const listener of [...(this.byType.get(type) ?? [])] as Listener<Events[Type]>[]) {
      try {
        const result = listener(event);
        if (result instanceof Promise) busy.push(result.catch(report));
      } catch (error) {
        report(error);
      }
    }
    return busy.length > 0 ? Promise.all(busy) : undefined;
  }
}

/** As an error in an event listener of a page is reported: aloud, and without stopping anybody else. */
function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

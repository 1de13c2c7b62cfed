"""A clock that only a test moves."""


class ScriptedClock:
    """Seconds; `sleep` moves it and then tells whoever wants to know."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self.slept = []
        self.told = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for event in list(self.told):
            event(self.now)

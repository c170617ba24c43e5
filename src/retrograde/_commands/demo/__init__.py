"""The main job: Lotka-Volterra fitted to the Hudson's Bay lynx and hare, within a budget.

Members: ``problem`` (data, equations, starting guesses), ``fit`` (objective with its gradient,
optimiser), ``session`` (every library in turn, what is printed), ``plot`` (the picture). The one
solve is written in array API and runs on every library that has an adapter; NumPy, SciPy, tqdm
and matplotlib are reached through adapters or imported when needed.
"""

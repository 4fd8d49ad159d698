"""Talking to an Errorbar server: typed answers, numpy or torch in and numpy out, retries only where they are safe.

    from service.client import Client

    with Client("http://127.0.0.1:8080") as client:
        answer = client.uncertainty("digits", rows, samples=50)
        answer.mean, answer.std                      # numpy, rows first
        client.decide("digits", rows)                # ["accept", "abstain", …], never raises
        for answer in client.stream("digits", rows, samples=1000):
            if answer.mean_se is not None and answer.mean_se.max() < 0.01:
                break                                # and the server stops sampling

Importing this needs neither torch nor FastAPI.
"""

from service.client.answers import Decision, Predicted, Settled, Uncertain
from service.client.clients import AsyncClient, Client
from service.client.requests import Rows

__all__ = ["AsyncClient", "Client", "Decision", "Predicted", "Rows", "Settled", "Uncertain"]

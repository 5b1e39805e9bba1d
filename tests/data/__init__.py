import os

# before anything imports the Hub's client: no test goes over the network
os.environ["HF_HUB_OFFLINE"] = "1"

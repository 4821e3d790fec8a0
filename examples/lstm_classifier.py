"""A bidirectional LSTM over word embeddings, orthogonal recurrent weights, forget-gate bias one: clean."""

from torch import nn


class LSTMClassifier(nn.Module):
    def __init__(self, vocab_size, embed_dim=128, hidden_dim=128, num_classes=2, dropout=0.3):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=0)
        self.lstm = nn.LSTM(embed_dim, hidden_dim, num_layers=2, batch_first=True, bidirectional=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * hidden_dim, num_classes)
        self.init_weights()

    def init_weights(self):
        hidden = self.lstm.hidden_size
        for name, parameter in self.lstm.named_parameters():
            if "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            elif "weight_hh" in name:
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
            if "bias_ih" in name:  # torch adds bias_ih and bias_hh: set the forget gate of one of them
                nn.init.ones_(parameter[hidden : 2 * hidden])

    def forward(self, tokens):
        states, _ = self.lstm(self.embedding(tokens))
        return self.fc(self.dropout(states.mean(dim=1)))


if __name__ == "__main__":
    model = LSTMClassifier(vocab_size=10_000)
    print(sum(p.numel() for p in model.parameters()), "parameters")

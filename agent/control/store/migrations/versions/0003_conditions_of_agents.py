"""Conditions of agents"""

from alembic import op
import sqlalchemy as sa


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('agents', sa.Column('conditions', sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column('agents', 'conditions')
